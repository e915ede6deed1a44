"""Images with labels and regions: where they come from, and how they come to a network."""

from regard.data.batches import Augmentation, Batch, Batches
from regard.data.builtin import clutter
from regard.data.decode import Unreadable
from regard.data.fit import Fit
from regard.data.folder import read_folder
from regard.data.imageset import Channels, ImageSet, Splits
from regard.data.normalisation import Normalisation
from regard.data.pictures import Pictures, open_pictures
from regard.data.reading import Labelled, Reading, reading
from regard.data.regions import open_regions
from regard.data.regionset import RegionSet
from regard.data.sources import all_options, load, names
from regard.data.stream import RegionBatch, looked, stream

__all__ = [
    "Augmentation",
    "Batch",
    "Batches",
    "Channels",
    "Fit",
    "ImageSet",
    "Labelled",
    "Normalisation",
    "Pictures",
    "Reading",
    "RegionBatch",
    "RegionSet",
    "Splits",
    "Unreadable",
    "all_options",
    "clutter",
    "load",
    "looked",
    "names",
    "open_pictures",
    "open_regions",
    "read_folder",
    "reading",
    "stream",
]
