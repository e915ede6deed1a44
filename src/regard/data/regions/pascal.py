"""Boxes in the XML of PASCAL VOC, which ImageNet uses too; from files that nobody has vouched for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from regard.data.dataset import Mask
from regard.data.decode import Frame, Unreadable
from regard.data.file_dataset import FileDataset
from regard.data.listing import show
from regard.data.regions.shapes import box_mask
from regard.files import read_regular

_LARGEST = 2**20  # bytes; a file of boxes has a few thousand
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Boxes:
    """What a file says: width and height of its image, None if it does not, and the name and box of each object.

    A box is (left, top, right, bottom).
    """

    size: tuple[int, int] | None
    objects: tuple[tuple[str, tuple[float, float, float, float]], ...]


class BoxDataset(FileDataset):
    """Images, each with the boxes in its file as region: those of its label, or all, with pixels counted from `first`;
    the last pixel of a box is in it where that is 1."""

    has_masks = True
    alone = True
    first = 0

    def _region(self, index: int, frame: Frame) -> Mask:
        found = read_boxes(self._annotation(index))
        size = found.size or frame[:2]
        self._check_size(index, frame, size)
        label = self.classes[self.labels[index]]
        boxes = [box for name, box in found.objects if not self.alone or name == label]
        return box_mask([(left - self.first, top - self.first, *ends) for left, top, *ends in boxes], *size)


def read_boxes(path: Path) -> Boxes:
    """The boxes in a file.

    Raises:
        Unreadable: it is not there, no XML, not of this format, longer than 1 MiB, or declares a document type: with
            one, a few lines can grow to gigabytes, and no file of boxes needs any.
    """
    try:
        content = read_regular(path, _LARGEST)
    except OSError as error:
        raise Unreadable(f"{show(path)} cannot be read ({error.strerror}), which a file of boxes can") from error
    root = _parsed(content, path)
    try:
        objects = tuple((_text(one, "name"), _box(one)) for one in root.findall("object"))
        size = root.find("size")
        return Boxes(None if size is None else _size(size), objects)
    except ValueError as error:
        raise Unreadable(f"{show(path)} is no file of boxes ({error})") from error


def _parsed(content: bytes, path: Path) -> Element:
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        raise Unreadable(f"{show(path)} declares a document type, which a file of boxes does not need")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # the latter two of an unknown encoding
        raise Unreadable(f"{show(path)} is no XML ({error})") from error
    return builder.close()


def _size(size: Element) -> tuple[int, int] | None:
    """None where it is stated as zero, as some files have it."""
    width, height = (_number(size, name) for name in ("width", "height"))
    return (int(width), int(height)) if width > 0 and height > 0 else None


def _box(one: Element) -> tuple[float, float, float, float]:
    box = one.find("bndbox")
    if box is None:
        raise ValueError("an object has no bndbox")
    x1, y1, x2, y2 = (_number(box, name) for name in _CORNERS)
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
