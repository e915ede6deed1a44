"""CUB-200-2011: birds of 200 species with boxes and segmentations (Wah et al. 2011, Caltech CNS-TR-2011-001)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regard.data.dataset import ImageDataset, Mask, Splits
from regard.data.decode import Unreadable, open_image
from regard.data.file_dataset import FileDataset
from regard.data.listing import Tree, existing_folder, show
from regard.data.regions.boxes import box_mask, first_pixels
from regard.data.registry import register, register_splits
from regard.data.text_files import check_inside, read_rows
from regard.errors import InputError, unknown

_MAJORITY = 128  # the grey value of a pixel is the fraction of annotators who marked it


_LAYOUT = (
    "expected the folder CUB_200_2011 with images/, images.txt, classes.txt, image_class_labels.txt, "
    "train_test_split.txt, bounding_boxes.txt"
)


class CubDataset(FileDataset):
    """The images of a split. The region of an image is the segmentation of the bird, or its box.

    `boxes` (N, 4) are left, top, right and bottom in pixels of the stored images; they are the regions if the folder
    `segmentations` is None. With `crop` "box", images and regions are cropped to the boxes.
    """

    def __init__(
        self,
        split: str,
        root: Path,
        keys: Sequence[str],
        labels: Sequence[int],
        classes: Sequence[str],
        boxes: NDArray[np.float64] | None,
        segmentations: Path | None,
        crop: str = "none",
    ) -> None:
        files = None if segmentations is None else [segmentations / _segmentation_name(key) for key in keys]
        super().__init__("cub", split, root / "images", keys, labels, classes, files)
        self.has_masks = True
        self._boxes = boxes if boxes is not None else np.zeros((len(keys), 4))
        self._cropped = crop == "box"

    def image(self, index: int) -> Image.Image:
        image = super().image(index)
        return image.crop(self._crop_box(index)) if self._cropped else image

    def square(self, index: int, size: int) -> Image.Image:
        return ImageDataset.square(self, index, size) if self._cropped else super().square(index, size)

    def mask(self, index: int) -> Mask:
        frame, segmentation = self._frame(index), self._annotation(index)
        if segmentation is None:
            mask = frame.turn(box_mask([self._boxes[index]], *frame.size), frame.path)
        else:
            mask = frame.turn(_segmentation(segmentation), segmentation)
        left, top, right, bottom = self._crop_box(index) if self._cropped else (0, 0, *frame.upright)
        return mask[top:bottom, left:right]

    def _crop_box(self, index: int) -> tuple[int, int, int, int]:
        """The box of the bird in whole pixels of the upright image, clipped to it."""
        frame, pixels = self._frame(index), first_pixels(self._boxes[index])
        box = np.clip(pixels, 0, (*frame.size, *frame.size))
        if (box[:2] >= box[2:]).any():
            left, top, right, bottom = pixels.tolist()
            raise Unreadable(
                f"{show(frame.path)} has {frame.width} x {frame.height} pixels, none of them in its box from column "
                f"{left}, row {top} to column {right}, row {bottom}"
            )
        left, top, right, bottom = frame.turn_boxes(box[None].astype(np.float64))[0].astype(np.int64).tolist()
        return left, top, right, bottom

    def _regions_digest(self) -> bytes:
        return self._boxes.tobytes() + super()._regions_digest()


def _segmentation(path: Path) -> Mask:
    with open_image(path) as image:
        grey = np.asarray(image.getchannel(0) if image.mode in ("L", "LA", "RGB", "RGBA") else image.convert("L"))
    return np.asarray(grey >= _MAJORITY)


def _segmentation_name(key: str) -> str:
    return f"{key.rpartition('.')[0]}.png"


def _root(path: Path) -> Path | None:
    folders = (path, path / "CUB_200_2011")
    return next((folder for folder in folders if (folder / "image_class_labels.txt").is_file()), None)


@register("cub", layout=_LAYOUT, recognised=lambda path: _root(path) is not None)
def open_cub(
    path: Path,
    split: str | None = None,
    region: Literal["segmentation", "box"] | None = None,
    crop: Literal["box", "none"] = "none",
) -> CubDataset:
    """Opens the split "train" (5,994 images) or "test" (5,794 images, the default).

    `path` is the folder `CUB_200_2011` or its parent. `region` is the "segmentation" of the bird or its "box"; None for
    the segmentation if its folder exists. With `crop` "box", images are cropped to the boxes of their birds.
    """
    root = _root(path)
    if root is None:
        raise InputError(f"no image_class_labels.txt in {show(path)}; {_LAYOUT}")
    split = "test" if split is None else split
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    paths = {
        number: check_inside(name, root / "images.txt") for number, name in _table(root / "images.txt", 2, "a path")
    }
    names = dict(_table(root / "classes.txt", 2, "the name of a class"))
    order = {number: label for label, number in enumerate(names)}
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
    Tree(root / "images").check(keys, "images that images.txt names", "unpack the set there again")
    folder = next((path for path in (root / "segmentations", root.parent / "segmentations") if path.is_dir()), None)
    if region == "segmentation" and folder is None:
        raise InputError(f"no segmentations/ in {show(root)} or beside it; unpack segmentations.tgz there")
    if region == "box":
        folder = None
    if folder is not None:
        masks = [_segmentation_name(key) for key in keys]
        Tree(folder).check(masks, f"segmentations of the {split} images", "unpack segmentations.tgz again")
    boxes = None if folder is not None and crop == "none" else _boxes(root / "bounding_boxes.txt", members)
    image_labels = [order[labels[number]] for number in members]
    return CubDataset(split, root, keys, image_labels, list(names.values()), boxes, folder, crop)


@register_splits("cub", resized=True)
def load_cub(
    path: str | os.PathLike[str],
    *,
    crop: Literal["box", "none"] = "box",
    region: Literal["box", "segmentation"] = "box",
) -> Splits[CubDataset]:
    """Loads both splits. Each needs 1.5 GiB of memory at 256 pixels.

    Images are cropped to the boxes of their birds, as in Attention Transfer (arXiv 1612.03928, section 4.2.1), unless
    `crop` is "none"; then the shorter side is resized to the given size and the centre is cropped. The region of an
    image is the box or the segmentation of the bird.
    """
    folder = existing_folder(path, _LAYOUT)
    return Splits(*(open_cub(folder, split, region, crop) for split in ("train", "test")))


def _table(path: Path, count: int, expected: str) -> list[tuple[str, str]]:
    """The lines of a text file as pairs of a number and the text after it."""
    rows = read_rows(path, count, f"a number and {expected}")
    return [(row[0], " ".join(row[1:])) for row in rows]


def _boxes(path: Path, members: Sequence[str]) -> NDArray[np.float64]:
    """The boxes of the images, float64 (N, 4): left, top, right, bottom."""
    table = {row[0]: row[1:5] for row in read_rows(path, 5, "a number, and x, y, width and height")}
    boxes = []
    for number in members:
        try:
            x, y, width, height = map(float, table.get(number, ()))
        except ValueError:
            x = y = width = height = math.nan
        if not (math.isfinite(x + y + width + height) and min(width, height) >= 0):
            raise InputError(
                f"{show(path)} has the box {' '.join(table.get(number, ()))[:80]!r} for image {number}; expected x, y, "
                "width and height"
            )
        boxes.append((x, y, x + width, y + height))
    return np.array(boxes)
