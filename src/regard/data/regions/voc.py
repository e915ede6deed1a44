"""PASCAL VOC: objects as class segmentations or as boxes (Everingham et al. 2010, IJCV 88)."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regard.data.dataset import Mask
from regard.data.decode import Frame, Unreadable, quiet
from regard.data.file_dataset import FileDataset
from regard.data.listing import Tree, show
from regard.data.regions.boxes import boxes_objects, boxes_region, read_boxes
from regard.data.regions.masks import read_label_map
from regard.data.registry import pick_split, register
from regard.data.text_files import check_inside, read_lines
from regard.errors import InputError

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

_LAYOUT = (
    "expected the folder VOC2012 (or VOC2007, or VOCdevkit) with JPEGImages/, SegmentationClass/ and "
    "ImageSets/Segmentation/, or with JPEGImages/ and Annotations/*.xml"
)
_VOID = 255
_IMAGES = "JPEGImages"
_LISTS = "ImageSets/Segmentation"
_MAPS = "SegmentationClass"
_BOX_LISTS = "ImageSets/Main"
_BOXES = "Annotations"
_PREFERRED = ("val", "test", "train")


def _region(path: Path, frame: Frame, label: int, *, label_only: bool, border: bool) -> Mask:
    numbers = _read_classes(path)
    mask = (numbers > 0) & (numbers != _VOID)
    if label_only:
        mask &= numbers == label + 1
    return mask | (numbers == _VOID) if border else mask


def _read_classes(path: Path) -> NDArray[np.integer[Any]]:
    """The class segmentation, integers (H, W): 0 for background, classes from 1, 255 for void (borders)."""
    numbers = read_label_map(path)
    invalid = (numbers > len(CLASSES)) & (numbers != _VOID)
    if invalid.any():
        raise Unreadable(f"{show(path)} has the number {numbers[invalid][0]}; expected 0 to {len(CLASSES)}, or {_VOID}")
    return numbers


def _label(path: Path) -> int:
    """The class index with the largest area; the lowest on a tie; -1 without objects or if the file is unreadable."""
    try:
        numbers = _read_classes(path)
    except Unreadable:
        return -1  # `mask` raises the error
    counts = np.bincount(numbers.reshape(-1), minlength=len(CLASSES) + 1)[1 : len(CLASSES) + 1]
    return int(counts.argmax()) if counts.any() else -1


def _box_areas(path: Path) -> dict[str, float]:
    """The total area of the boxes of each class, in pixels; empty if the file is unreadable."""
    areas: dict[str, float] = {}
    with suppress(Unreadable):  # `mask` raises the error
        for name, (left, top, right, bottom) in read_boxes(path).objects:
            areas[name] = areas.get(name, 0) + (right - left + 1) * (bottom - top + 1)
    return areas


def _root(path: Path) -> Path | None:
    """The folder of one year: `path`, or the latest year in it or in its VOCdevkit.

    Folders with segmentations are preferred to folders with boxes only. None if there is neither.
    """
    years = sorted((*path.glob("VOC20[0-9][0-9]"), *path.glob("VOCdevkit/VOC20[0-9][0-9]")), key=lambda year: year.name)
    folders = [path, *reversed(years)]
    return next((folder for folder in folders if _has_segmentations(folder)), None) or next(
        (folder for folder in folders if (folder / _IMAGES).is_dir() and _xml_files(folder)), None
    )


def _has_segmentations(root: Path) -> bool:
    return (root / _LISTS).is_dir()


def _xml_files(root: Path) -> list[str]:
    return [name for name in Tree(root / _BOXES).files() if name.lower().endswith(".xml")]


@register("voc", layout=_LAYOUT, recognised=lambda path: _root(path) is not None)
def open_voc(
    path: Path,
    split: str | None = None,
    region: Literal["all", "label"] = "all",
    boundary: Literal["inside", "outside"] | None = None,
    annotations: Literal["segmentations", "boxes"] | None = None,
) -> FileDataset:
    """Opens a split with class segmentations, or with boxes, which are single objects, if there are no segmentations.

    `path` is the folder of one year, or its parent or grandparent, and `split` a list in ImageSets/; None for the first
    available of val, test and train. `region` is the union of "all" objects, or only of the objects of the image's
    "label". Void borders of segmentations are "inside" or "outside" the region; None for inside, but outside with
    region "label".
    """
    root = _root(path)
    if root is None:
        raise InputError(f"neither {_LISTS}/ nor {_BOXES}/*.xml in {show(path)}; {_LAYOUT}")
    boxes = annotations == "boxes" or not _has_segmentations(root)
    if boxes and annotations == "segmentations":
        raise InputError(f"no {_LISTS}/ in {show(root)}; leave annotations='segmentations' out")
    if boxes and boundary is not None:
        raise InputError("boxes have no borders; leave the boundary out")
    # The void border does not name its object, so it cannot be inside the region of one class.
    if region == "label" and boundary == "inside":
        raise InputError("borders belong to no class; leave boundary='inside' out with region='label'")
    label_only, border = region == "label", boundary == "inside" or (boundary is None and region == "all")
    split, keys, paths = _files(root, split, boxes)
    shared = "voc", split, root / _IMAGES, keys
    if not boxes:
        with quiet():
            labels = [_label(path) for path in paths]
        segmented = partial(_region, label_only=label_only, border=border)
        return FileDataset(*shared, labels, CLASSES, paths, segmented, (label_only, border))
    areas = [_box_areas(path) for path in paths]
    present = {name for area in areas for name in area}
    classes = CLASSES if present <= set(CLASSES) else tuple(sorted(present))
    # The class with the largest area; the first on a tie; -1 without objects.
    largest = [max(sorted(area), key=area.__getitem__, default=None) for area in areas]
    labels = [-1 if name is None else classes.index(name) for name in largest]
    boxed = partial(boxes_region, classes=classes, label_only=label_only, first=1)
    objects = partial(boxes_objects, classes=classes, first=1)
    return FileDataset(*shared, labels, classes, paths, boxed, label_only, objects)


def _files(root: Path, split: str | None, boxes: bool) -> tuple[str, list[str], list[Path]]:
    """The name of a split, its images, and the annotation file of each image."""
    lists, folder, extension = (_BOX_LISTS, _BOXES, "xml") if boxes else (_LISTS, _MAPS, "png")
    images = {path.rpartition(".")[0]: path for path in Tree(root / _IMAGES).images()}
    # Lists such as cat_val.txt are not splits: they list the images that contain a class.
    names = [name.removesuffix(".txt") for name in Tree(root / lists).files() if name.endswith(".txt")]
    splits = [name for name in names if "_" not in name or not boxes]
    if splits or split is not None or not boxes:
        split = pick_split(split, splits, root / lists, _PREFERRED)
        source = f"{split}.txt"
        names = _read_names(root / lists / source, images)
    else:
        source = f"{_BOXES}/"
        names = [name.rpartition(".")[0] for name in _xml_files(root)]
    keys, files = [images.get(name, f"{name}.jpg") for name in names], [f"{name}.{extension}" for name in names]
    Tree(root / _IMAGES).check(keys, f"images that {source} names", "unpack VOC there again, or add them")
    Tree(root / folder).check(files, f"annotations for {source}", "unpack VOC there again, or add them")
    return split or "", keys, [root / folder / name for name in files]


def _read_names(file: Path, images: Collection[str]) -> list[str]:
    """Reads the unique image names in a list file: one per line, followed by 1, 0 or -1 in lists of a class."""
    names = []
    for line in read_lines(file, "the name of an image"):
        columns = line.split()
        has_flag = line not in images and len(columns) == 2 and columns[1] in ("1", "0", "-1")
        names.append(check_inside(columns[0] if has_flag else line, file))
    return list(dict.fromkeys(names))
