"""Decoding of image files to upright RGB images."""

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

# Supported formats of Pillow with their file extensions. A file's format is detected from its content, because the
# extensions of files from the web are often wrong.
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


OnUnreadable = Literal["error", "skip"]  # what to do with files that cannot be read
SKIP = "remove or replace it, or have such images skipped (--unreadable skip)"
SKIP_IN_A_RUN = "--data.unreadable skip, with which --resume goes on"


class Unreadable(Exception):
    """A file cannot be read as an image. The message contains its path and the reason."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses Pillow's warnings, which are irrelevant or replaced by errors. Not thread-safe."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


class Frame(NamedTuple):
    """The width and height of the stored image in pixels, before the EXIF orientation (1 to 8) is applied."""

    path: Path
    width: int
    height: int
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the stored image."""
        return self.width, self.height

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) after the EXIF orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else self.size

    def check(self, size: tuple[int, int], source: Path) -> None:
        """Raises Unreadable if the (width, height) of an annotation, from the file `source`, differs from the image."""
        if size not in (self.size, self.upright):
            raise Unreadable(
                f"{str(self.path)!r} has {self.width} x {self.height} pixels, but {str(source)!r} is for "
                f"{size[0]} x {size[1]}"
            )

    def turn(self, mask: NDArray[np.bool_], source: Path) -> NDArray[np.bool_]:
        """Applies the EXIF orientation to a mask (H, W) from the file `source`. A mask that only fits the upright
        image is returned unchanged. Raises Unreadable if it fits neither the stored nor the upright image."""
        size = mask.shape[1], mask.shape[0]
        self.check(size, source)
        # Most image readers, and so most annotation tools, ignore the EXIF orientation. Annotations are therefore
        # assumed to be in stored pixels, unless only the upright image has their size.
        turn = _UPRIGHT.get(self.orientation)
        if turn is None or size != self.size:
            return mask
        return np.asarray(Image.fromarray(mask.view(np.uint8)).transpose(turn)).view(np.bool_)

    def turn_boxes(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Applies the EXIF orientation to boxes (n, 4), (left, top, right, bottom) in the stored image."""
        if self.orientation >= 5:
            boxes = boxes[:, [1, 0, 3, 2]]
        width, height = self.upright
        if self.orientation in (2, 3, 6, 7):
            boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
        if self.orientation in (3, 4, 7, 8):
            boxes = np.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], axis=1)
        return boxes


def read_image(path: Path, file: IO[bytes] | None = None) -> tuple[Image.Image, Frame]:
    """Reads an image as upright RGB, with its stored size and orientation. Raises Unreadable as `open_image` does.

    If an open `file` is given, the path is only its name in messages.
    """
    with open_image(path, file) as image:
        # Load before reading the EXIF, which decodes a PNG and hides errors.
        image.load()
        frame = Frame(path, *image.size, _orientation(image))
        converted = upright(image)
        converted.load()  # while the file is open
        return converted, frame


def read_square(path: Path, size: int) -> Image.Image:
    """Reads the central square of an image, resized to size x size pixels, as upright RGB. Raises Unreadable."""
    with open_image(path) as image:
        # A much larger JPEG is decoded directly at 1/2, 1/4 or 1/8 of its size.
        image.draft(None, (2 * size, 2 * size))
        image.load()
        return square(upright(image), size)


def square(image: Image.Image, size: int) -> Image.Image:
    """The central square of an image, resized to size x size pixels: bilinear, antialiased."""
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def mask_to_grey(mask: NDArray[np.bool_]) -> Image.Image:
    """Converts a mask (H, W) to a black and white image, to be resized like its image."""
    return Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0)))


def grey_to_mask(image: Image.Image) -> NDArray[np.bool_]:
    """The mask of the pixels that are at least half white."""
    return np.asarray(image) >= 128


def upright(image: Image.Image) -> Image.Image:
    """Converts a loaded image to RGB with its EXIF orientation applied.

    Only the upper 8 of 16 bits are kept, and transparency is dropped. Raises ValueError for pixels of 32 bits.
    """
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError("its pixels have 32 bits of unknown range; save it with 8 or 16 bits")
    # Read the orientation first: conversion loses the EXIF.
    turn = _UPRIGHT.get(_orientation(image))
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I"):
        # 16-bit greyscale, which Pillow's conversion would clip at 255.
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def read_frame(path: Path) -> Frame:
    """Reads the stored size and orientation of an image from the file's header. Raises Unreadable."""
    with open_image(path) as image:
        return Frame(path, *image.size, _orientation(image))


@contextlib.contextmanager
def open_image(path: Path, file: IO[bytes] | None = None) -> Iterator[Image.Image]:
    """Context manager that opens an image file, from a path or an open file, without decoding it.

    Raises Unreadable if the file is not an image, or has more than PIL.Image.MAX_IMAGE_PIXELS pixels, and for every
    error within the context except MemoryError.
    """
    try:
        if file is None and path.exists() and not path.is_file():  # reading a pipe could block
            raise Unreadable(f"{str(path)!r} is not a regular file")
        with Image.open(file or path, formats=_formats()) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Unreadable(f"{str(path)!r} has {image.width} x {image.height} pixels, more than is safe to read")
            yield image
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # decoders raise various exceptions on corrupt bytes
        raise _unreadable(path, error) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """The supported formats that the installed Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


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
    except Exception:  # intact images often have malformed EXIF
        return 1
