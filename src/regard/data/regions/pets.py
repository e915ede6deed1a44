"""Oxford-IIIT Pets: cats and dogs of 37 breeds with trimaps (Parkhi et al. 2012, CVPR)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from regard.data.dataset import Mask
from regard.data.decode import Frame, Unreadable
from regard.data.file_dataset import FileDataset
from regard.data.listing import Tree, show
from regard.data.regions.masks import read_label_map
from regard.data.registry import pick_split, register
from regard.data.text_files import read_rows
from regard.errors import InputError

_ANIMAL, _BACKGROUND, _BORDER = 1, 2, 3
_SPLITS = ("test", "trainval")
_LAYOUT = "expected a folder with images/, annotations/trimaps/, annotations/trainval.txt and annotations/test.txt"


@register("pets", layout=_LAYOUT, recognised=lambda path: (path / "annotations" / "trimaps").is_dir())
def open_pets(path: Path, split: str | None = None, boundary: Literal["inside", "outside"] = "inside") -> FileDataset:
    """Opens a split, "test" or "train". With `boundary` "inside", the border pixels of trimaps are in the region."""
    lists = path / "annotations"
    splits = [name for name in _SPLITS if (lists / f"{name}.txt").is_file()]
    if not splits:
        raise InputError(f"neither test.txt nor trainval.txt in {show(lists)}; {_LAYOUT}")
    split = pick_split("trainval" if split == "train" else split, splits, lists, _SPLITS)
    breeds: dict[int, str] = {}  # by number; from both lists, so that the splits have the same labels
    members: dict[str, int] = {}  # the number of the breed by image
    for name in splits:
        file = lists / f"{name}.txt"
        for row in read_rows(file, 2, "the name of an image and the number of its class"):
            breed, number = row[0].rpartition("_")[0], int(row[1]) if row[1].isdecimal() else -1
            if not breed or number < 0 or breeds.setdefault(number, breed) != breed:
                raise InputError(
                    f"{show(file)} has the line {' '.join(row)[:80]!r}; expected one such as 'Abyssinian_1 1 1 1', "
                    "with a number for each breed"
                )
            if name == split:
                members[row[0]] = number
    label_of = {number: i for i, number in enumerate(sorted(breeds))}
    description, hint = f"images that {split}.txt names", "unpack the set there again"
    keys, trimaps = ([f"{name}.{ending}" for name in members] for ending in ("jpg", "png"))
    Tree(path / "images").check(keys, description, hint)
    Tree(lists / "trimaps").check(trimaps, f"trimaps of {description}", hint)
    labels = [label_of[number] for number in members.values()]
    classes = [breeds[number] for number in sorted(breeds)]
    files, border = [lists / "trimaps" / name for name in trimaps], boundary == "inside"
    region = partial(_region, border=border)
    split = "train" if split == "trainval" else split
    return FileDataset("pets", split, path / "images", keys, labels, classes, files, region, border)


def _region(path: Path, frame: Frame, label: int, *, border: bool) -> Mask:
    numbers = read_label_map(path)
    invalid = (numbers < _ANIMAL) | (numbers > _BORDER)
    if invalid.any():
        raise Unreadable(f"{show(path)} has the number {numbers[invalid][0]}; expected 1, 2 or 3")
    return np.asarray(numbers != _BACKGROUND if border else numbers == _ANIMAL)
