"""STL10 with objects marked on a grid of 16 x 16 cells (github.com/semihyagli/STL10_Segmentation)."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from regard.data.dataset import ImageDataset, Mask
from regard.data.decode import Frame, Unreadable
from regard.data.file_dataset import FileDataset, files_digest, open_regular
from regard.data.listing import Tree, existing_folder, show
from regard.data.registry import pick_split, register
from regard.data.text_files import read_bytes, read_json
from regard.errors import InputError

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")

_LAYOUT = (
    "expected a folder with stl10_test_airplane.json, … and, in it or beside it, stl10_binary/ with test_X.bin and "
    "test_y.bin"
)
_CELLS = 16
_SIDE = 96
_BYTES = 3 * _SIDE * _SIDE
_MARKS = re.compile(r"stl10_(\w+)_([a-z]+)\.json")
_BINARY = "stl10_binary"
_PICTURE = re.compile(r"([a-z]+)_(\d+)\.png")

Grid = NDArray[np.bool_]  # (16, 16), row and column


class Stl10Dataset(FileDataset):
    """The images with marked objects. A region is the union of the marked cells.

    Images are PNG files or stored in one of STL10's binary files. In both cases the key of an image consists of its
    class and its index in the split, as in "airplane_4599.png"; `positions` are these indices, int64 (N,).
    """

    def __init__(
        self, split: str, folder: Path, members: Sequence[tuple[str, int]], grids: Sequence[Grid], binary: str | None
    ) -> None:
        keys = [f"{name}_{position}.png" for name, position in members]
        super().__init__("stl10", split, folder, keys, [CLASSES.index(name) for name, _ in members], CLASSES)
        self.has_masks = True
        self.positions = np.array([position for _, position in members], dtype=np.int64)
        self._grids = np.stack(grids)
        self._binary = None if binary is None else folder / binary

    def image(self, index: int) -> Image.Image:
        if self._binary is None:
            return super().image(index)
        try:
            content = np.fromfile(self._binary, np.uint8, _BYTES, offset=int(self.positions[index]) * _BYTES)
        except OSError as error:
            raise Unreadable(f"{show(self._binary)} cannot be opened ({error.strerror})") from error
        if len(content) != _BYTES:
            raise Unreadable(f"{show(self._binary)} is cut short")
        # Each channel is stored column by column.
        image = content.reshape(3, _SIDE, _SIDE).transpose(2, 1, 0)
        return Image.fromarray(np.ascontiguousarray(image))

    def square(self, index: int, size: int) -> Image.Image:
        return super().square(index, size) if self._binary is None else ImageDataset.square(self, index, size)

    def mask(self, index: int) -> Mask:
        frame = self._frame(index) if self._binary is None else Frame(self._binary, _SIDE, _SIDE, 1)
        # A pixel belongs to the cell that contains its centre.
        rows, columns = ((2 * np.arange(length) + 1) * _CELLS // (2 * length) for length in (frame.height, frame.width))
        return frame.turn(self._grids[index][np.ix_(rows, columns)], frame.path)

    def _regions_digest(self) -> bytes:
        binary = self._binary
        if binary is None:
            return self._grids.tobytes()
        one = torch.zeros(1, dtype=torch.int64)
        return self._grids.tobytes() + files_digest(one, lambda _: "", lambda _: open_regular(binary)).digest()


def _marked(path: Path) -> dict[str, re.Match[str]]:
    """The annotation files in a folder, with the match of split and class in each name."""
    return {name: match for name in Tree(path).files() if (match := _MARKS.fullmatch(name))}


@register("stl10", layout=_LAYOUT, recognised=lambda path: bool(_marked(path)))
def open_stl10(path: Path, split: str | None = None, images: str | None = None) -> Stl10Dataset:
    """Open the marked images of a split, "test" or "train".

    `images` is the folder of the PNG files or of STL10's binary files; None searches the annotation folder, its parent
    and its `images/`. Binary files may also be in `stl10_binary/` in one of these folders.
    """
    marks = _marked(path)
    if not marks:
        raise InputError(f"no stl10_<split>_<class>.json in {show(path)}; {_LAYOUT}")
    splits = sorted({match[1] for match in marks.values()})
    split = pick_split(split, splits, path, ("test", "train"))
    grids: dict[tuple[str, int], Grid] = {}
    for name, parts in marks.items():
        if parts[1] == split:
            if parts[2] not in CLASSES:
                raise InputError(f"{show(path / name)} is of no class of STL10; those are {', '.join(CLASSES)}")
            grids |= {(parts[2], position): grid for position, grid in _read(path / name).items()}
    parents = [existing_folder(images)] if images else [path, path.parent, path / "images"]
    for folder in [folder for parent in parents for folder in (parent, parent / _BINARY)]:
        if (folder / f"{split}_X.bin").is_file():
            members = _of_binary(folder, split, grids)
            return Stl10Dataset(split, folder, members, [grids[one] for one in members], f"{split}_X.bin")
    for folder in parents:
        pictures = [match for name in Tree(folder).files() if (match := _PICTURE.fullmatch(name))]
        if pictures:
            members = sorted((match[1], int(match[2])) for match in pictures)
            unmarked = [f"{name}_{position}.png" for name, position in members if (name, position) not in grids]
            if unmarked:
                raise InputError(
                    f"{len(unmarked)} of the {len(members)} images in {show(folder)} are not marked for split {split!r}"
                    f" ({unmarked[0]!r} is the first); expected <class>_<place in the split>.png"
                )
            return Stl10Dataset(split, folder, members, [grids[one] for one in members], None)
    raise InputError(
        f"neither {split}_X.bin nor images such as airplane_4599.png in {', '.join(map(show, parents))}; {_LAYOUT}, "
        "or say where the images are (images)"
    )


def _of_binary(folder: Path, split: str, grids: dict[tuple[str, int], Grid]) -> list[tuple[str, int]]:
    """The marked images whose label in STL10 is their annotated class, as (class, index), sorted by index."""
    labels = np.frombuffer(read_bytes(folder / f"{split}_y.bin"), dtype=np.uint8)
    size = (folder / f"{split}_X.bin").stat().st_size
    if size != len(labels) * _BYTES:
        raise InputError(
            f"{show(folder / f'{split}_X.bin')} has {size} bytes; expected {_BYTES} for each of {len(labels)} images"
        )
    members = [
        (name, position)
        for name, position in grids
        if 0 <= position < len(labels) and labels[position] == CLASSES.index(name) + 1
    ]
    if 2 * len(members) < len(grids) or not members:
        raise InputError(
            f"only {len(members)} of the {len(grids)} marked images have the class in "
            f"{show(folder / f'{split}_y.bin')} that they are marked as; expected the marks of these images"
        )
    return sorted(members, key=lambda member: member[1])


def _read(path: Path) -> dict[int, Grid]:
    """A dict from an image's index in the split to its grid."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{show(path)} is no table of images; expected place -> object -> list of [x, y]")
    grids = {}
    for position, objects in content.items():
        grid = np.zeros((_CELLS, _CELLS), dtype=np.bool_)
        try:
            for x, y in itertools.chain.from_iterable(objects.values()):
                if 0 <= operator.index(x) < _CELLS and 0 <= operator.index(y) < _CELLS:  # some are off the image
                    grid[y, x] = True
            grids[int(position)] = grid
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"image {position[:40]!r} in {show(path)} is malformed; expected its place in the split, and for each "
                "object a list of [x, y]"
            ) from error
    return grids
