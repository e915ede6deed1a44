"""Image files below one folder: how they are read, regions turned with them, and sets told apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from regard.data.dataset import ImageDataset, Mask
from regard.data.decode import Box, Frame, Unreadable, frame_of, read_image, read_square, turned
from regard.data.listing import show
from regard.data.strings import Strings

_MOST_FILES = 8192  # that a fingerprint reads
_MOST_BYTES = 2**28  # of all of them together


class FileDataset(ImageDataset):
    """Image files below one folder, under the names that its keys are: without masks, unless a subclass has them.

    Args:
        name: as of `ImageDataset`, and so are `split`, `keys`, `labels` and `classes`.
        folder: of the images.
        annotations: for each image the file that says where its region is; None where there are no such files.
    """

    has_masks = False

    def __init__(
        self,
        name: str,
        split: str,
        folder: Path,
        keys: Sequence[str],
        labels: Sequence[int] | NDArray[np.int64],
        classes: Sequence[str],
        annotations: Sequence[Path] | None = None,
    ) -> None:
        self.name, self.split, self.folder, self.classes = name, split, folder, tuple(classes)
        self.keys: Sequence[str] = Strings(keys)
        self.labels = torch.from_numpy(np.array(labels, dtype=np.int64).reshape(len(keys)))
        self._annotations = None if annotations is None else Strings(map(str, annotations))
        self._last: tuple[int, Frame] | None = None

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.folder / self.keys[index]

    def image(self, index: int) -> Image.Image:
        image, frame = read_image(self.path(index), box=self._crop(index))
        self._last = index, frame
        return image

    def _crop(self, index: int) -> Box | None:
        """What is cut out of the image, as the file stores it; None: nothing."""
        return None

    def square(self, index: int, size: int) -> Image.Image:
        return read_square(self.path(index), size)

    def mask(self, index: int) -> Mask | None:
        if not self.has_masks:
            return None
        frame = self._frame(index)
        return self._upright(index, frame, self._region(index, frame))

    def _region(self, index: int, frame: Frame) -> Mask:
        """The region, bool (H, W), in pixels as the file stores them or as they are upright."""
        raise NotImplementedError

    def _annotation(self, index: int) -> Path:
        """The file that says where the region is."""
        assert self._annotations is not None
        return Path(self._annotations[index])

    def _frame(self, index: int) -> Frame:
        """How the file stores the image; it is not opened again where the image has just been read."""
        last = self._last
        return last[1] if last is not None and last[0] == index else frame_of(self.path(index))

    def _upright(self, index: int, frame: Frame, mask: Mask) -> Mask:
        """A mask in pixels as the file stores them or as they are upright, upright."""
        size = mask.shape[1], mask.shape[0]
        self._check_size(index, frame, size)
        # Annotations are of the pixels as the file stores them, unless their size says that they are of the upright
        # image: most of what reads images, and so most tools that people mark objects with, ignores the EXIF.
        return turned(mask, frame.orientation) if size == (frame.width, frame.height) else mask

    def _check_size(self, index: int, frame: Frame, size: tuple[int, int]) -> None:
        """Raises Unreadable if annotations of this size, width and height, are not of the image."""
        if size not in ((frame.width, frame.height), frame.upright):
            raise Unreadable(
                f"{show(self.path(index))} has {frame.width} x {frame.height} pixels, but "
                f"{show(self._annotation(index))} is for {size[0]} x {size[1]}"
            )

    def fingerprint(self) -> str:
        """Of keys, labels and what the regions are made of, and of size and first bytes of up to 8,192 image files,
        evenly spread: of small sets every byte counts. Not of where the files are, or of when they were written.
        """
        digest = files_digest(self.labels, self.keys.__getitem__, lambda i: open_regular(self.path(i)))
        digest.update(self._regions_digest())
        return digest.hexdigest()

    def _regions_digest(self) -> bytes:
        """All that the regions are made of."""
        files = self._annotations
        if files is None:
            return b""
        return files_digest(
            self.labels, lambda i: os.path.basename(files[i]), lambda i: open_regular(Path(files[i]))
        ).digest()


def files_digest(labels: Tensor, name: Callable[[int], str], opened: Callable[[int], IO[bytes]]) -> hashlib._Hash:
    """Of labelled files: of all labels (N,), and of name, size and first bytes of up to 8,192 files, evenly spread;
    256 MiB are read at most."""
    count, most = len(labels), min(len(labels), _MOST_FILES)
    digest = hashlib.sha256(f"{count}\n".encode() + labels.numpy().tobytes())
    for i in (place * count // most for place in range(most)):
        digest.update(f"{name(i)}\n".encode(errors="surrogateescape"))
        with suppress(OSError, Unreadable), opened(i) as file:
            digest.update(f"{file.seek(0, os.SEEK_END)}\n".encode())
            file.seek(0)
            digest.update(file.read(_MOST_BYTES // most))
    return digest


def open_regular(path: Path) -> IO[bytes]:
    """A file to read. Raises OSError; Unreadable for what is no file: a pipe would be waited for."""
    if path.exists() and not path.is_file():
        raise Unreadable(f"{str(path)!r} is no file")
    return open(path, "rb")
