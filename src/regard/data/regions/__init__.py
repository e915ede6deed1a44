"""Data sets in their published formats: one file per format, which registers the format."""

# Formats are tried in this order: those that expect the most files come first.
from regard.data.regions import coco, cub, pets, voc, stl10, scenes, imagenet, masks, folder  # isort: skip

__all__ = ["coco", "cub", "folder", "imagenet", "masks", "pets", "scenes", "stl10", "voc"]
