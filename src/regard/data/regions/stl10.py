"""STL10 with objects annotated on a grid of 16 x 16 cells (github.com/semihyagli/STL10_Segmentation)."""

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
_ANNOTATION_NAME = re.compile(r"stl10_(\w+)_([a-z]+)\.json")
_BINARY_FOLDER = "stl10_binary"
_IMAGE_NAME = re.compile(r"([a-z]+)_(\d+)\.png")

Grid = NDArray[np.bool_]  # (16, 16), row and column


class Stl10Dataset(FileDataset):
    """The annotated images. A region is the union of the marked cells.

    Images are PNG files or in one of STL10's binary files. The key of an image consists of its class and its index in
    the split, as in "airplane_4599.png"; `positions` are these indices, int64 (N,).
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
        # Channels are stored column by column.
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
        label = torch.zeros(1, dtype=torch.int64)  # for a digest of a single file
        return self._grids.tobytes() + files_digest(label, lambda _: "", lambda _: open_regular(binary)).digest()


def _annotation_files(path: Path) -> dict[str, re.Match[str]]:
    """The annotation files in a folder, with the split and class matched in their names."""
    return {name: match for name in Tree(path).files() if (match := _ANNOTATION_NAME.fullmatch(name))}


@register("stl10", layout=_LAYOUT, recognised=lambda path: bool(_annotation_files(path)))
def open_stl10(path: Path, split: str | None = None, images: str | None = None) -> Stl10Dataset:
    """Opens the annotated images of a split, "test" or "train".

    `images` is the folder of the PNG files or of STL10's binary files; None for the annotation folder, its parent or
    its `images/`. Binary files may also be in `stl10_binary/` in one of these folders.
    """
    annotations = _annotation_files(path)
    if not annotations:
        raise InputError(f"no stl10_<split>_<class>.json in {show(path)}; {_LAYOUT}")
    splits = sorted({match[1] for match in annotations.values()})
    split = pick_split(split, splits, path, ("test", "train"))
    grids: dict[tuple[str, int], Grid] = {}
    for name, match in annotations.items():
        if match[1] == split:
            if match[2] not in CLASSES:
                raise InputError(f"{show(path / name)} is of no class of STL10; those are {', '.join(CLASSES)}")
            grids |= {(match[2], position): grid for position, grid in _read_grids(path / name).items()}
    parents = [existing_folder(images)] if images else [path, path.parent, path / "images"]
    for folder in [folder for parent in parents for folder in (parent, parent / _BINARY_FOLDER)]:
        if (folder / f"{split}_X.bin").is_file():
            members = _binary_members(folder, split, grids)
            return Stl10Dataset(split, folder, members, [grids[member] for member in members], f"{split}_X.bin")
    for folder in parents:
        matches = list(filter(None, map(_IMAGE_NAME.fullmatch, Tree(folder).files())))
        if matches:
            members = sorted((match[1], int(match[2])) for match in matches)
            unmarked = [f"{name}_{position}.png" for name, position in members if (name, position) not in grids]
            if unmarked:
                raise InputError(
                    f"{len(unmarked)} of the {len(members)} images in {show(folder)} are not marked for split {split!r}"
                    f" ({unmarked[0]!r} is the first); expected <class>_<index in the split>.png"
                )
            return Stl10Dataset(split, folder, members, [grids[member] for member in members], None)
    raise InputError(
        f"neither {split}_X.bin nor images such as airplane_4599.png in {', '.join(map(show, parents))}; {_LAYOUT}, "
        "or give the folder of the images (images)"
    )


def _binary_members(folder: Path, split: str, grids: dict[tuple[str, int], Grid]) -> list[tuple[str, int]]:
    """The annotated images whose label in STL10 is their annotated class, as (class, index), sorted by index."""
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
            f"only {len(members)} of the {len(grids)} marked images have their class in "
            f"{show(folder / f'{split}_y.bin')}; expected the annotations of these images"
        )
    return sorted(members, key=lambda member: member[1])


def _read_grids(path: Path) -> dict[int, Grid]:
    """Reads an annotation file: the grid of each image by its index in the split."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{show(path)} is not a table of images; expected index -> object -> list of [x, y]")
    grids = {}
    for position, objects in content.items():
        grid = np.zeros((_CELLS, _CELLS), dtype=np.bool_)
        try:
            for x, y in itertools.chain.from_iterable(objects.values()):
                if 0 <= operator.index(x) < _CELLS and 0 <= operator.index(y) < _CELLS:  # some are outside the image
                    grid[y, x] = True
            grids[int(position)] = grid
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"image {position[:40]!r} in {show(path)} is malformed; expected its index in the split, and for each "
                "object a list of [x, y]"
            ) from error
    return grids
