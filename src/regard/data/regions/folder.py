"""Class folders of images, without regions."""

from __future__ import annotations

from pathlib import Path

from regard.data.file_dataset import FileDataset
from regard.data.listing import Listing, list_folder
from regard.data.regions.kind import Choices, Kind, pick_split
from regard.data.regions.masks import SPLITS
from regard.data.regions.tree import Tree


class FolderDataset(FileDataset):
    """Images of a folder of class folders; where their regions are is not known."""

    has_masks = False

    def __init__(self, split: str, listing: Listing) -> None:
        keys = [file.relative_to(listing.folder).as_posix() for file in listing.files]
        super().__init__("folder", split, listing.folder, keys, listing.labels, listing.classes)

    def mask(self, index: int) -> None:
        return None


def _recognised(where: Path) -> bool:
    return bool(Tree(where).folders())


def _open(where: Path, choices: Choices) -> FolderDataset:
    splits = [name for name in SPLITS if (where / name).is_dir()]
    if not splits and choices.split is None:
        return FolderDataset("", list_folder(where))
    split = pick_split(choices.split, splits, where, SPLITS)
    return FolderDataset(split, list_folder(where / split, testing=split != "train"))


KIND = Kind(
    "folder",
    "expected a folder for each class with its images in it, or such folders in test/, val/ or train/",
    _recognised,
    _open,
    frozenset({"split"}),
)
