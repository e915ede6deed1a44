"""PASCAL VOC: objects as pictures whose palette says the class (Everingham et al. 2010, IJCV 88)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard.data.decode import Frame, Unreadable, quiet
from regard.data.listing import show
from regard.data.regions.drawn import numbers_of
from regard.data.regions.fileset import FileSet, states
from regard.data.regions.kind import Choices, Kind, chosen, pick_split, read_rows
from regard.data.regions.tree import Tree, check_all_there
from regard.data.regionset import Mask
from regard.errors import InputError

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

_VOID = 255
_LISTS = "ImageSets/Segmentation"
_MAPS = "SegmentationClass"


class VocSet(FileSet):
    """The images of one list, each with the objects of all classes, or of its label, as its region."""

    def __init__(self, split: str, folder: Path, names: Sequence[str], alone: bool, border: bool) -> None:
        self._maps = [folder / _MAPS / f"{name}.png" for name in names]
        self._alone = alone
        self._border = border
        with quiet():
            labels = [_label(path) for path in self._maps]
        super().__init__("voc", split, folder / "JPEGImages", [f"{name}.jpg" for name in names], labels, CLASSES)

    def _marked(self, index: int, frame: Frame) -> Mask:
        numbers = _numbers(self._maps[index])
        if self._alone:
            mask = numbers == self.labels[index] + 1
            mask &= numbers > 0  # an image without objects has the label -1
        else:
            mask = (numbers > 0) & (numbers != _VOID)
        return mask | (numbers == _VOID) if self._border else mask

    def _source(self, index: int) -> str:
        return show(self._maps[index])

    def _marks(self) -> Iterator[bytes]:
        yield repr((self._alone, self._border)).encode()
        yield states(iter(self._maps))


def _numbers(path: Path) -> NDArray[np.integer[Any]]:
    """0 for the background, else the class, from 1, or void."""
    numbers = numbers_of(path)
    beyond = (numbers > len(CLASSES)) & (numbers != _VOID)
    if beyond.any():
        raise Unreadable(f"{show(path)} has the number {numbers[beyond][0]}; expected 0 to {len(CLASSES)}, or {_VOID}")
    return numbers


def _label(path: Path) -> int:
    """The class of the largest area, the first of several; -1 if there is none, or the file cannot be read."""
    try:
        numbers = _numbers(path)
    except Unreadable:
        return -1  # whoever asks for the region will be told
    counts = np.bincount(numbers.reshape(-1), minlength=len(CLASSES) + 1)[1 : len(CLASSES) + 1]
    return int(counts.argmax()) if counts.any() else -1


def _root(where: Path) -> Path | None:
    """The folder of one year: the one given, or the latest in it or in the VOCdevkit in it."""
    years = sorted(
        (*where.glob("VOC20[0-9][0-9]"), *where.glob("VOCdevkit/VOC20[0-9][0-9]")), key=lambda path: path.name
    )
    return next((path for path in (where, *reversed(years)) if (path / _LISTS).is_dir()), None)


def _open(where: Path, choices: Choices) -> VocSet:
    region = chosen("region", choices.region, ("all", "label"), "all")
    # Borders belong to no object in particular, so that they can only be inside of all.
    boundary = chosen("boundary", choices.boundary, ("inside", "outside"), "inside" if region == "all" else "outside")
    if region == "label" and boundary == "inside":
        raise InputError("borders do not say which object they are of; leave boundary='inside' out with region='label'")
    root = _root(where)
    if root is None:
        raise InputError(f"no {_LISTS}/ in {show(where)}; {KIND.layout}")
    there = [name.removesuffix(".txt") for name in Tree(root / _LISTS).files() if name.endswith(".txt")]
    split = pick_split(choices.split, there, root / _LISTS, ("val", "test", "train"))
    file = root / _LISTS / f"{split}.txt"
    names = list(dict.fromkeys(row[0] for row in read_rows(file, 1, "the name of an image")))
    tree = Tree(root)
    hint = "unpack VOC there again"
    check_all_there(tree, [f"JPEGImages/{name}.jpg" for name in names], f"images that {file.name} names", hint)
    check_all_there(tree, [f"{_MAPS}/{name}.png" for name in names], f"pictures of classes for {file.name}", hint)
    return VocSet(split, root, names, region == "label", boundary == "inside")


KIND = Kind(
    "voc",
    "expected the folder VOC2012 (or VOC2007, or VOCdevkit) with JPEGImages/, SegmentationClass/ and "
    "ImageSets/Segmentation/",
    lambda where: _root(where) is not None,
    _open,
    frozenset({"split", "region", "boundary"}),
)
