"""Class folders of images, without regions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from regard.data.dataset import Mask
from regard.data.decode import Frame
from regard.data.listing import Listing, list_folder
from regard.data.regions.fileset import FileSet
from regard.data.regions.kind import Choices, Kind, pick_split
from regard.data.regions.masks import SPLITS
from regard.data.regions.tree import Tree


class FolderSet(FileSet):
    """Images of a folder of class folders; where their regions are is not known."""

    has_masks = False

    def __init__(self, split: str, listing: Listing) -> None:
        keys = [file.relative_to(listing.folder).as_posix() for file in listing.files]
        super().__init__("folder", split, listing.folder, keys, listing.labels, listing.classes)

    def mask(self, index: int) -> None:
        return None

    def _marked(self, index: int, frame: Frame) -> Mask:
        return np.zeros((frame.height, frame.width), dtype=np.bool_)

    def _source(self, index: int) -> str:
        return "nothing"

    def _marks(self) -> Iterator[bytes]:
        return iter(())


def _recognised(where: Path) -> bool:
    return bool(Tree(where).folders())


def _open(where: Path, choices: Choices) -> FolderSet:
    splits = [name for name in SPLITS if (where / name).is_dir()]
    if not splits and choices.split is None:
        return FolderSet("", list_folder(where))
    split = pick_split(choices.split, splits, where, SPLITS)
    return FolderSet(split, list_folder(where / split, testing=split != "train"))


KIND = Kind(
    "folder",
    "expected a folder for each class with its images in it, or such folders in test/, val/ or train/",
    _recognised,
    _open,
    frozenset({"split"}),
)
