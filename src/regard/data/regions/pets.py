"""Oxford-IIIT Pets: cats and dogs of 37 breeds, with trimaps (Parkhi et al. 2012, CVPR)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from regard.data.dataset import Mask
from regard.data.decode import Frame, Unreadable
from regard.data.file_dataset import FileDataset
from regard.data.listing import Tree, show
from regard.data.regions.drawn import numbers_of
from regard.data.registry import pick_split, register
from regard.data.text_files import read_rows
from regard.errors import InputError

_ANIMAL, _BACKGROUND, _BORDER = 1, 2, 3
_SPLITS = ("test", "trainval")
_LAYOUT = "expected a folder with images/, annotations/trimaps/, annotations/trainval.txt and annotations/test.txt"


class PetsDataset(FileDataset):
    """The images of one list, each with its animal as region."""

    has_masks = True

    def __init__(
        self, split: str, root: Path, names: Sequence[str], labels: Sequence[int], classes: Sequence[str], border: bool
    ) -> None:
        trimaps = [root / "annotations" / "trimaps" / f"{name}.png" for name in names]
        super().__init__("pets", split, root / "images", [f"{name}.jpg" for name in names], labels, classes, trimaps)
        self._border = border

    def _region(self, index: int, frame: Frame) -> Mask:
        numbers = numbers_of(self._annotation(index))
        beyond = (numbers < _ANIMAL) | (numbers > _BORDER)
        if beyond.any():
            raise Unreadable(f"{show(self._annotation(index))} has the number {numbers[beyond][0]}; expected 1, 2 or 3")
        mask: Mask = numbers != _BACKGROUND if self._border else numbers == _ANIMAL
        return np.asarray(mask)

    def _regions_digest(self) -> bytes:
        return repr(self._border).encode() + super()._regions_digest()


@register("pets", layout=_LAYOUT, recognised=lambda path: (path / "annotations" / "trimaps").is_dir())
def open_pets(path: Path, split: str | None = None, boundary: Literal["inside", "outside"] = "inside") -> PetsDataset:
    """The images of a split, "test" or "train"; `boundary` says whether borders belong to the animal."""
    lists = path / "annotations"
    there = [name for name in _SPLITS if (lists / f"{name}.txt").is_file()]
    if not there:
        raise InputError(f"neither test.txt nor trainval.txt in {show(lists)}; {_LAYOUT}")
    split = pick_split("trainval" if split == "train" else split, there, lists, _SPLITS)
    breeds: dict[int, str] = {}  # of both lists, so that a label means the same in both
    members: dict[str, int] = {}
    for name in there:
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
    place = {number: i for i, number in enumerate(sorted(breeds))}
    what, hint = f"images that {split}.txt names", "unpack the set there again"
    Tree(path).check([f"images/{name}.jpg" for name in members], what, hint)
    Tree(path).check([f"annotations/trimaps/{name}.png" for name in members], f"trimaps of {what}", hint)
    labels = [place[number] for number in members.values()]
    classes = [breeds[number] for number in sorted(breeds)]
    return PetsDataset(
        "train" if split == "trainval" else split, path, list(members), labels, classes, boundary == "inside"
    )
