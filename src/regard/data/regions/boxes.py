"""Regions from bounding boxes, and a reader of PASCAL VOC's XML annotations, which ImageNet uses as well.

Coordinates are in pixels, x to the right and y down from the upper left corner of the image: the pixel in row r and
column c covers [c, c + 1) x [r, r + 1). A pixel belongs to a box if its centre (c + 0.5, r + 0.5) lies in the box, or
on its upper or left edge. Boxes are clipped to the image. Annotation files are not trusted: their size is limited, and
document types are rejected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser, fromstring

import numpy as np
from numpy.typing import NDArray

from regard.data.dataset import Mask
from regard.data.decode import Frame, Unreadable
from regard.data.listing import show
from regard.data.objects import Objects, create_objects
from regard.files import read_regular

_MAX_BYTES = 2**20  # bytes; a typical annotation file has a few thousand


class Boxes(NamedTuple):
    """The annotations in one file: the (width, height) of the image, if given, and the class name and box (left, top,
    right, bottom) of each object."""

    size: tuple[int, int] | None
    objects: tuple[tuple[str, tuple[float, float, float, float]], ...]


def box_mask(boxes: Iterable[Iterable[float]], width: int, height: int) -> Mask:
    """The union of boxes (left, top, right, bottom), which may have fractional coordinates, as a mask, bool (H, W).

    A box is empty if its right edge is left of its left edge, or its bottom above its top.
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    for box in boxes:
        left, top, right, bottom = first_pixels(np.clip(np.fromiter(box, np.float64, 4), 0, (width, height) * 2))
        mask[top:bottom, left:right] = True
    return mask


def first_pixels(edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """The index of the first pixel whose centre is at the edge or after it, not clipped to the image."""
    return np.ceil(edges - 0.5).astype(np.int64)


def boxes_region(
    path: Path, frame: Frame, label: int, *, classes: Sequence[str], label_only: bool = True, first: int = 0
) -> Mask:
    """The union of the boxes in an annotation file, bool (H, W); with `label_only`, only of the image's label.

    `first` is the coordinate of the first pixel; with 1, the right and bottom coordinates are inside the box. Raises
    Unreadable if the file cannot be read, or is for an image of a different size.
    """
    annotation = read_boxes(path)
    size = annotation.size or frame.size
    frame.check(size, path)
    boxes = [box for name, box in annotation.objects if not label_only or name == classes[label]]
    return box_mask([(left - first, top - first, *ends) for left, top, *ends in boxes], *size)


def boxes_objects(
    path: Path, frame: Frame, label: int, masks: bool, *, classes: Sequence[str], first: int = 0
) -> Objects:
    """The objects of all classes in an annotation file, without masks; arguments and errors as in `boxes_region`.

    Raises Unreadable also for a class that is not in `classes`.
    """
    annotation = read_boxes(path)
    size = annotation.size or frame.size
    frame.check(size, path)
    for name, _ in annotation.objects:
        if name not in classes:
            raise Unreadable(f"{show(path)} has an object {name!r}; expected one of {', '.join(classes)}")
    corners = np.array([box for _, box in annotation.objects], dtype=np.float64).reshape(-1, 4)
    corners[:, :2] -= first
    corners = frame.turn_boxes(corners) if size == frame.size else corners
    return create_objects(corners, [classes.index(name) for name, _ in annotation.objects], size=frame.upright)


def read_boxes(path: Path) -> Boxes:
    """Reads the boxes in an annotation file.

    Raises Unreadable if the file does not exist, is not XML of this format, is larger than 1 MiB, or declares a
    document type, whose entities could expand to gigabytes.
    """
    try:
        content = read_regular(path, _MAX_BYTES)
    except OSError as error:
        raise Unreadable(f"{show(path)} cannot be read as a file of boxes ({error.strerror})") from error
    try:
        root = fromstring(content, XMLParser(target=_WithoutDoctype()))
        objects = tuple((_text(element, "name"), _box(element)) for element in root.findall("object"))
        size = root.find("size")
        return Boxes(None if size is None else _size(size), objects)
    except (ParseError, LookupError, ValueError) as error:  # LookupError: unknown encoding
        raise Unreadable(f"{show(path)} is not an XML file of boxes ({error})") from error


class _WithoutDoctype(TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise ValueError("it declares a document type, which a file of boxes does not need")


def _size(size: Element) -> tuple[int, int] | None:
    """(width, height), or None if one is 0, as in some published files."""
    width, height = (_number(size, name) for name in ("width", "height"))
    return (int(width), int(height)) if width > 0 and height > 0 else None


def _box(element: Element) -> tuple[float, float, float, float]:
    box = element.find("bndbox")
    if box is None:
        raise ValueError("an object has no bndbox")
    x1, y1, x2, y2 = (_number(box, name) for name in ("xmin", "ymin", "xmax", "ymax"))
    # The corners may come in any order: some ImageNet boxes give the larger coordinate first.
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _number(element: Element, name: str) -> float:
    text = _text(element, name)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < 1e9:
        raise ValueError(f"{name} is {text[:40]!r}, not a number")
    return number


def _text(element: Element, name: str) -> str:
    text = element.findtext(name)
    if text is None or not text.strip():
        raise ValueError(f"{element.tag} has no {name}")
    return text.strip()
