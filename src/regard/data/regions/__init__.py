"""Sets of images in the formats they are published in: one file a format, which registers itself."""

# In the order in which they are recognised: what asks for the most is tried first.
from regard.data.regions import coco, cub, pets, voc, stl10, scenes, imagenet, masks, folder  # isort: skip

__all__ = ["coco", "cub", "folder", "imagenet", "masks", "pets", "scenes", "stl10", "voc"]
