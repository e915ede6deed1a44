"""What all sets of image files share: how images are read, regions turned with them, and sets told apart."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from regard.data.dataset import ImageDataset, Mask
from regard.data.decode import Frame, Unreadable, frame_of, picture, turned
from regard.data.listing import show


class FileSet(ImageDataset):
    """A set whose images are files below one folder, under the names that its keys are."""

    def __init__(
        self,
        name: str,
        split: str,
        folder: Path,
        keys: Sequence[str],
        labels: Sequence[int] | NDArray[np.int64],
        classes: Sequence[str],
    ) -> None:
        self.name = name
        self.split = split
        self.folder = folder
        self.keys = tuple(keys)
        self.labels = torch.from_numpy(np.array(labels, dtype=np.int64).reshape(len(self.keys)))
        self.classes = tuple(classes)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.folder / self.keys[index]

    def image(self, index: int) -> Image.Image:
        return picture(self.path(index))

    def mask(self, index: int) -> Mask | None:
        frame = frame_of(self.path(index))
        return self._turned(index, frame, self._marked(index, frame))

    def _turned(self, index: int, frame: Frame, mask: Mask) -> Mask:
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
                f"{show(self.path(index))} has {frame.width} x {frame.height} pixels, but {self._source(index)} is for "
                f"{size[0]} x {size[1]}"
            )

    @abstractmethod
    def _marked(self, index: int, frame: Frame) -> Mask:
        """The region, bool (H, W), in pixels as the file stores them or as they are upright."""

    @abstractmethod
    def _source(self, index: int) -> str:
        """What says where the region is, for a message: "the mask 'a/b.png'"."""

    @abstractmethod
    def _marks(self) -> Iterator[bytes]:
        """All that the regions are made of."""

    def fingerprint(self) -> str:
        """Of name, split, classes, keys, labels, `states` of the image files, and what the regions are made of: their
        shapes, or names and `states` of the files they are in. Where the files are does not matter.
        """
        digest = hashlib.sha256(json.dumps([self.name, self.split, self.classes, self.keys]).encode())
        digest.update(self.labels.numpy().tobytes())
        digest.update(states(self.path(i) for i in range(len(self))))
        for part in self._marks():
            digest.update(part)
        return digest.hexdigest()


class PairedSet(FileSet):
    """A set with a file for each image that says where its region is: `beside(index)`."""

    def __init__(
        self,
        name: str,
        split: str,
        folder: Path,
        keys: Sequence[str],
        labels: Sequence[int],
        classes: Sequence[str],
        region_folder: Path,
        region_keys: Sequence[str],
    ) -> None:
        super().__init__(name, split, folder, keys, labels, classes)
        self._region_folder = region_folder
        self._region_keys = tuple(region_keys)

    def beside(self, index: int) -> Path:
        """The file of an image's region."""
        return self._region_folder / self._region_keys[index]

    def _source(self, index: int) -> str:
        return show(self.beside(index))

    def _marks(self) -> Iterator[bytes]:
        yield repr(self._region_keys).encode()
        yield states(self.beside(i) for i in range(len(self)))


def states(paths: Iterator[Path]) -> bytes:
    """The sizes of files in bytes and their times of modification in nanoseconds, -1 for one that is not there.

    They stand for the contents: to read 100,000 images takes minutes.
    """

    def state(path: Path) -> tuple[int, int]:
        try:
            found = path.stat()
        except OSError:
            return -1, -1
        return found.st_size, found.st_mtime_ns

    return b"".join(b"%d %d\n" % state(path) for path in paths)
