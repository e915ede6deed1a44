"""CUB-200-2011: birds of 200 species, with boxes and segmentations (Wah et al. 2011, Caltech CNS-TR-2011-001)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regard.data.dataset import Mask
from regard.data.decode import Frame, opened, read_image, square
from regard.data.file_dataset import FileDataset
from regard.data.listing import show
from regard.data.regions.kind import Choices, Kind, chosen, read_rows
from regard.data.regions.shapes import box_mask, first_pixels
from regard.data.regions.tree import Tree, check_all_there, check_inside
from regard.errors import InputError

_HALF = 128  # of the grey that says how many of the annotators marked a pixel


class CubDataset(FileDataset):
    """The images of a split, each with its bird, or the box around it, as region.

    Args:
        boxes: (N, 4), left, top, right and bottom of each bird, as the file stores its image.
        segmentations: the folder of the segmentations; None: the regions are the boxes.
        crop: whether images are cut to the boxes.
    """

    def __init__(
        self,
        split: str,
        root: Path,
        keys: Sequence[str],
        labels: Sequence[int],
        classes: Sequence[str],
        boxes: NDArray[np.float64],
        segmentations: Path | None,
        crop: bool = False,
    ) -> None:
        files = None if segmentations is None else [segmentations / _picture(key) for key in keys]
        super().__init__("cub", split, root / "images", keys, labels, classes, files)
        self._boxes = boxes
        self._crop = crop

    def image(self, index: int) -> Image.Image:
        return self._cut(index) if self._crop else super().image(index)

    def square(self, index: int, size: int) -> Image.Image:
        return square(self._cut(index), size) if self._crop else super().square(index, size)

    def _cut(self, index: int) -> Image.Image:
        left, top, right, bottom = first_pixels(self._boxes[index]).tolist()
        return read_image(self.path(index), box=(left, top, right, bottom))[0]

    def _region(self, index: int, frame: Frame) -> Mask:
        if self._annotations is None:
            return box_mask([self._boxes[index]], *frame[:2])
        with opened(self._annotation(index)) as image:
            grey = np.asarray(image.getchannel(0) if image.mode in ("L", "LA", "RGB", "RGBA") else image.convert("L"))
        return np.asarray(grey >= _HALF)

    def _regions_digest(self) -> bytes:
        return self._boxes.tobytes() + super()._regions_digest()


def _picture(key: str) -> str:
    return f"{key.rpartition('.')[0]}.png"


def _root(where: Path) -> Path | None:
    return next((path for path in (where, where / "CUB_200_2011") if (path / "image_class_labels.txt").is_file()), None)


def open_cub(where: Path, choices: Choices) -> CubDataset:
    """A split of the set in this folder, or in `CUB_200_2011` in it.

    Raises:
        InputError: files that are missing or malformed.
    """
    root = _root(where)
    if root is None:
        raise InputError(f"no image_class_labels.txt in {show(where)}; {KIND.layout}")
    split = chosen("split", choices.split, ("train", "test"), "test")
    paths = {
        number: check_inside(path, root / "images.txt") for number, path in _table(root / "images.txt", 2, "a path")
    }
    names = dict(_table(root / "classes.txt", 2, "the name of a class"))
    order = {number: place for place, number in enumerate(names)}
    training = dict(_table(root / "train_test_split.txt", 2, "1 for training, else 0"))
    labels = dict(_table(root / "image_class_labels.txt", 2, "the number of a class"))
    members = [number for number in paths if training.get(number) == ("1" if split == "train" else "0")]
    if not members:
        raise InputError(f"{show(root / 'train_test_split.txt')} has no images for split {split!r}; get it again")
    for number in members:
        if labels.get(number) not in order:
            raise InputError(
                f"image {number} has the class {labels.get(number)!r} in {show(root / 'image_class_labels.txt')}, "
                "which classes.txt does not name; get both again"
            )
    keys = [paths[number] for number in members]
    tree = Tree(root / "images")
    check_all_there(tree, keys, "images that images.txt names", "unpack the set there again")
    folders = [path for path in (root / "segmentations", root.parent / "segmentations") if path.is_dir()]
    region = chosen("region", choices.region, ("segmentation", "box"), "segmentation" if folders else "box")
    boxes = np.zeros((len(keys), 4))
    if region == "box":
        boxes = _boxes(root / "bounding_boxes.txt", members)
    else:
        if not folders:
            raise InputError(f"no segmentations/ in {show(root)} or beside it; unpack segmentations.tgz there")
        wanted = [_picture(key) for key in keys]
        check_all_there(
            Tree(folders[0]), wanted, f"segmentations of the {split} images", "unpack segmentations.tgz again"
        )
    classes = list(names.values())
    places = [order[labels[number]] for number in members]
    return CubDataset(split, root, keys, places, classes, boxes, folders[0] if region == "segmentation" else None)


def _table(path: Path, count: int, what: str) -> list[tuple[str, str]]:
    """The lines: a number, and what is said about it."""
    rows = read_rows(path, count, f"a number and {what}")
    return [(row[0], " ".join(row[1:])) for row in rows]


def _boxes(path: Path, members: Sequence[str]) -> NDArray[np.float64]:
    """The boxes of the images, (N, 4): left, top, right, bottom."""
    table = {row[0]: row[1:5] for row in read_rows(path, 5, "a number, and x, y, width and height")}
    boxes = []
    for number in members:
        try:
            x, y, width, height = map(float, table[number])
        except KeyError:
            raise InputError(f"{show(path)} has no box for image {number}; get it again") from None
        except ValueError:
            raise InputError(f"{show(path)} has the box {' '.join(table[number])!r}; expected four numbers") from None
        if not all(map(math.isfinite, (x, y, width, height))):
            raise InputError(f"{show(path)} has the box {' '.join(table[number])!r}; expected four finite numbers")
        if width < 0 or height < 0:
            raise InputError(f"{show(path)} has a box of negative size for image {number}; expected width and height")
        boxes.append((x, y, x + width, y + height))
    return np.array(boxes)


KIND = Kind(
    "cub",
    "expected the folder CUB_200_2011 with images/, images.txt, classes.txt, image_class_labels.txt, "
    "train_test_split.txt, bounding_boxes.txt",
    lambda where: _root(where) is not None,
    open_cub,
    frozenset({"split", "region"}),
)
