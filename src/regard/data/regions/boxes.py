"""Regions made of boxes, and the XML of PASCAL VOC, which ImageNet uses too; from files that nobody has vouched for.

Coordinates are in pixels, x to the right and y down from the upper left corner of the image: the pixel in row r and
column c covers [c, c + 1) x [r, r + 1). It belongs to a box if its centre (c + 0.5, r + 0.5) does. Centres on an upper
or left edge are inside, on a lower or right edge outside. What lies beyond the image is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from regard.data.dataset import Mask
from regard.data.decode import Frame, Unreadable
from regard.data.listing import show
from regard.files import read_regular

_LARGEST = 2**20  # bytes; a file of boxes has a few thousand


class Boxes(NamedTuple):
    """What a file says: (width, height) of its image, None if it does not, and of each object its name and box (left,
    top, right, bottom)."""

    size: tuple[int, int] | None
    objects: tuple[tuple[str, tuple[float, float, float, float]], ...]


def box_mask(boxes: Iterable[Iterable[float]], width: int, height: int) -> Mask:
    """The union of boxes (left, top, right, bottom), not necessarily whole numbers; one turned inside out is empty."""
    mask = np.zeros((height, width), dtype=np.bool_)
    for box in boxes:
        left, top, right, bottom = first_pixels(np.clip(np.fromiter(box, np.float64, 4), 0, (width, height) * 2))
        mask[top:bottom, left:right] = True
    return mask


def first_pixels(edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first pixel, wherever the image ends, whose centre is at the edge or after it."""
    return np.ceil(edges - 0.5).astype(np.int64)


def boxes_region(
    path: Path, frame: Frame, label: int, *, classes: Sequence[str], alone: bool = True, first: int = 0
) -> Mask:
    """The boxes in a file: those of the label alone, or all. Pixels are counted from `first`; where that is 1, the last
    pixel of a box is in it."""
    annotation = read_boxes(path)
    size = annotation.size or frame.size
    frame.check(size, path)
    boxes = [box for name, box in annotation.objects if not alone or name == classes[label]]
    return box_mask([(left - first, top - first, *ends) for left, top, *ends in boxes], *size)


def read_boxes(path: Path) -> Boxes:
    """The boxes in a file. Raises Unreadable: it is not there, no XML, not of this format, longer than 1 MiB, or
    declares a document type, with which a few lines can grow to gigabytes."""
    try:
        content = read_regular(path, _LARGEST)
    except OSError as error:
        raise Unreadable(f"{show(path)} cannot be read ({error.strerror}), which a file of boxes can") from error
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(content, True)
        root = builder.close()
        objects = tuple((_text(one, "name"), _box(one)) for one in root.findall("object"))
        size = root.find("size")
        return Boxes(None if size is None else _size(size), objects)
    except (expat.ExpatError, LookupError, ValueError) as error:  # a LookupError of an unknown encoding
        raise Unreadable(f"{show(path)} is no file of boxes in XML ({error})") from error


def _refuse(*_: object) -> None:
    raise ValueError("it declares a document type, which a file of boxes does not need")


def _size(size: Element) -> tuple[int, int] | None:
    """None where it is stated as zero, as some files have it."""
    width, height = (_number(size, name) for name in ("width", "height"))
    return (int(width), int(height)) if width > 0 and height > 0 else None


def _box(one: Element) -> tuple[float, float, float, float]:
    box = one.find("bndbox")
    if box is None:
        raise ValueError("an object has no bndbox")
    x1, y1, x2, y2 = (_number(box, name) for name in ("xmin", "ymin", "xmax", "ymax"))
    # Two opposite corners, in whatever order: some boxes of ImageNet have the larger number first.
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _number(of: Element, name: str) -> float:
    text = _text(of, name)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < 1e9:
        raise ValueError(f"{name} is {text[:40]!r}, not a number")
    return number


def _text(of: Element, name: str) -> str:
    text = of.findtext(name)
    if text is None or not text.strip():
        raise ValueError(f"{of.tag} has no {name}")
    return text.strip()
