"""Image data sets with labels and masks, transforms and loaders."""

from regard.data.annotation import annotated
from regard.data.augmentation import Augmentation, Mixing
from regard.data.batch import Batch, Loader
from regard.data.builtin import clutter
from regard.data.dataset import Channels, ImageDataset, InMemoryDataset, Splits
from regard.data.decode import Unreadable
from regard.data.detection_transform import DetectionTransform
from regard.data.in_memory import read_into_memory
from regard.data.listing import EXTENSIONS
from regard.data.loader import create_loader
from regard.data.normalisation import Normalisation, denormalised
from regard.data.objects import Objects
from regard.data.pictures import Pictures, open_pictures
from regard.data.regions.folder import read_folder
from regard.data.registry import register, register_splits
from regard.data.sources import all_options, is_streamed, load, names, open_regions
from regard.data.transforms import Transform
from regard.data.wds import WebDataset

__all__ = [
    "EXTENSIONS",
    "Augmentation",
    "Batch",
    "Channels",
    "DetectionTransform",
    "ImageDataset",
    "InMemoryDataset",
    "Loader",
    "Mixing",
    "Normalisation",
    "Objects",
    "Pictures",
    "Splits",
    "Transform",
    "Unreadable",
    "WebDataset",
    "all_options",
    "annotated",
    "clutter",
    "create_loader",
    "denormalised",
    "is_streamed",
    "load",
    "names",
    "open_pictures",
    "open_regions",
    "read_folder",
    "read_into_memory",
    "register",
    "register_splits",
]
