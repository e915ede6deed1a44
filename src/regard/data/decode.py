"""Decodes an image file to RGB bytes."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from regard.errors import one_line

# Formats of Pillow that are read, with their file extensions. The content decides the format, not the extension, which
# is often wrong in files from the web.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif", ".avifs"),
}
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


OnUnreadable = Literal["error", "skip"]  # what becomes of files that cannot be read
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


SKIPPED_IN_A_RUN = "--data.unreadable skip, with which --resume goes on"


class Unreadable(Exception):
    """A file that cannot be read as an image; the message names it and says why."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow from warning of what is an error here, or of what does not matter. Not from within threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


class Frame(NamedTuple):
    """How a file stores its image: width and height in pixels before it is turned, and EXIF's orientation, 1 to 8."""

    path: Path
    width: int
    height: int
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as it is stored."""
        return self.width, self.height

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) once it is turned."""
        return (self.height, self.width) if self.orientation >= 5 else self.size

    def check(self, size: tuple[int, int], source: Path) -> None:
        """Raises Unreadable if an annotation of this (width, height), from this file, is not of the image."""
        if size not in (self.size, self.upright):
            raise Unreadable(
                f"{str(self.path)!r} has {self.width} x {self.height} pixels, but {str(source)!r} is for "
                f"{size[0]} x {size[1]}"
            )

    def turn(self, mask: NDArray[np.bool_], source: Path) -> NDArray[np.bool_]:
        """A mask (H, W) from this file, upright."""
        size = mask.shape[1], mask.shape[0]
        self.check(size, source)
        # Annotations are of the pixels as the file stores them, unless their size says that they are of the upright
        # image: most of what reads images, and so most tools that people mark objects with, ignores the EXIF.
        turn = _UPRIGHT.get(self.orientation)
        if turn is None or size != self.size:
            return mask
        return np.asarray(Image.fromarray(mask.view(np.uint8)).transpose(turn)).view(np.bool_)


def read_image(path: Path, file: IO[bytes] | None = None, *, box: Box | None = None) -> tuple[Image.Image, Frame]:
    """The image in a file, upright, RGB, and how the file stores it.

    Args:
        path: of the file, or with `file` what it is called.
        file: what to read, if it is open already.
        box: what to cut out, as the file stores the image; what lies beyond the image is left out. None: nothing.

    Raises:
        Unreadable: as of `opened`; or nothing of the image is in the box.
    """
    with opened(path, file) as image:
        # Before the EXIF is looked for: a PNG is decoded by that, and what is broken in it would be passed over.
        image.load()
        frame = Frame(path, *image.size, _orientation(image))
        converted = upright(image, None if box is None else _within(box, image, path))
        converted.load()  # while the file is open
        return converted, frame


def read_square(path: Path, size: int) -> Image.Image:
    """The centre of the image in a file, upright, RGB, size x size pixels. Raises Unreadable."""
    with opened(path) as image:
        # A JPEG far larger than wanted is decoded at a half, a quarter or an eighth, at once.
        image.draft(None, (2 * size, 2 * size))
        image.load()
        return square(upright(image), size)


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre of an image, size x size pixels: bilinear, antialiased."""
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def upright(image: Image.Image, box: Box | None = None) -> Image.Image:
    """An image that is loaded, or what is in the box, turned as its EXIF says, RGB.

    Of 16 bits the upper 8 count, transparency is dropped.
    """
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError("its pixels have 32 bits, of a range that is not known; save it with 8 or 16 bits")
    # Before anything else: conversion loses the EXIF.
    turn = _UPRIGHT.get(_orientation(image))
    image = image if box is None else image.crop(box)
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I"):
        # 16 bits of grey, which Pillow's own conversion would cut off at 255.
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def frame_of(path: Path) -> Frame:
    """How the file stores its image, from its header alone. Raises Unreadable."""
    with opened(path) as image:
        return Frame(path, *image.size, _orientation(image))


@contextlib.contextmanager
def opened(path: Path, file: IO[bytes] | None = None) -> Iterator[Image.Image]:
    """The image in a file, or in one that is open already, not decoded yet. Whatever goes wrong within is that the file
    is unreadable.

    Raises:
        Unreadable: no image, broken, empty, cut short, or of more than PIL.Image.MAX_IMAGE_PIXELS pixels.
    """
    try:
        with _opened(path, file) as image:
            yield image
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # a decoder may raise anything at all on broken bytes
        raise _unreadable(path, error) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _opened(path: Path, file: IO[bytes] | None) -> Image.Image:
    if file is None and path.exists() and not path.is_file():  # a pipe would be waited for
        raise Unreadable(f"{str(path)!r} is no file")
    image = Image.open(file or path, formats=_formats())
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        image.close()
        raise Unreadable(f"{str(path)!r} has {image.width} x {image.height} pixels, more than is safe to read")
    return image


def _unreadable(path: Path, error: Exception) -> Unreadable:
    if isinstance(error, Image.DecompressionBombError):
        return Unreadable(f"{str(path)!r} has more pixels than is safe to read")
    if isinstance(error, OSError) and error.strerror:
        return Unreadable(f"{str(path)!r} cannot be opened ({error.strerror})")
    try:
        empty = path.stat().st_size == 0
    except OSError:
        empty = False
    if empty:
        return Unreadable(f"{str(path)!r} is empty (0 bytes), not an image")
    if isinstance(error, UnidentifiedImageError):
        return Unreadable(f"{str(path)!r} is not an image of a known kind ({', '.join(_formats())})")
    return Unreadable(f"{str(path)!r} is broken ({one_line(error)})")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF is often malformed in images that are sound
        return 1


def _within(box: Box, image: Image.Image, path: Path) -> Box:
    """The part of the box that the image has."""
    left, top, right, bottom = box
    part = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
    if part[0] >= part[2] or part[1] >= part[3]:
        raise Unreadable(
            f"{str(path)!r} has {image.width} x {image.height} pixels, none of them in its box, from column {left}, "
            f"row {top} to column {right}, row {bottom}"
        )
    return part
