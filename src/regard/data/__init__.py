"""Images with labels and regions: where they come from, and how they come to a network."""

from regard.data.batches import Augmentation, Batch, Batches
from regard.data.builtin import clutter
from regard.data.folder import read_folder
from regard.data.imageset import ImageSet, Splits
from regard.data.sources import all_options, load, names

__all__ = [
    "Augmentation",
    "Batch",
    "Batches",
    "ImageSet",
    "Splits",
    "all_options",
    "clutter",
    "load",
    "names",
    "read_folder",
]
