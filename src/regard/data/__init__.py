"""Images with labels and regions: where they come from, and how they come to a network."""

from regard.data.augmentation import Augmentation
from regard.data.batches import Batch, Batches
from regard.data.builtin import clutter
from regard.data.dataset import Channels, ImageDataset, InMemoryDataset, Splits
from regard.data.decode import Unreadable
from regard.data.file_batches import FileBatches
from regard.data.fileset import FileSet
from regard.data.fit import Fit
from regard.data.folder import read_folder
from regard.data.listing import EXTENSIONS
from regard.data.making import make_batches
from regard.data.mixing import Mixing
from regard.data.normalisation import Normalisation
from regard.data.pictures import Pictures, open_pictures
from regard.data.reading import Labelled, Reading, reading
from regard.data.regions import open_regions
from regard.data.share import Share
from regard.data.sources import all_options, load, names
from regard.data.stream import RegionBatch, looked, stream

__all__ = [
    "EXTENSIONS",
    "Augmentation",
    "Batch",
    "Batches",
    "Channels",
    "FileBatches",
    "FileSet",
    "Fit",
    "InMemoryDataset",
    "Labelled",
    "Mixing",
    "Normalisation",
    "Pictures",
    "Reading",
    "RegionBatch",
    "ImageDataset",
    "Share",
    "Splits",
    "Unreadable",
    "all_options",
    "clutter",
    "load",
    "looked",
    "make_batches",
    "names",
    "open_pictures",
    "open_regions",
    "read_folder",
    "reading",
    "stream",
]
