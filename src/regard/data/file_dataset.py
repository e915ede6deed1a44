"""Image files below one folder, with optional regions."""

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
from regard.data.decode import Frame, Unreadable, frame_of, read_image, read_square
from regard.data.objects import Objects
from regard.data.text_files import Strings

_MOST_FILES = 8192  # files read for a fingerprint
_MOST_BYTES = 2**28  # bytes read for a fingerprint, over all files


class FileDataset(ImageDataset):
    """Image files below one folder. The key of an image is its path in the folder.

    Args:
        name, split, keys, labels, classes: as in `ImageDataset`.
        folder: folder of the images.
        annotations: annotation file of each image, None for one whose region is not known; None without such files.
        region: function from an annotation file, the image's `Frame` and its label to the region, bool (H, W), of the
            stored or the upright image; None without masks.
        objects: function from an annotation file, the image's `Frame`, its label and whether masks are wanted to
            the objects; None if single objects are not known.
        object_masks: whether it gives masks.
        options: options that define the regions, for the fingerprint; None without options.
    """

    def __init__(
        self,
        name: str,
        split: str,
        folder: Path,
        keys: Sequence[str],
        labels: Sequence[int] | NDArray[np.int64],
        classes: Sequence[str],
        annotations: Sequence[Path | None] | None = None,
        region: Callable[[Path, Frame, int], Mask] | None = None,
        options: object = None,
        objects: Callable[[Path, Frame, int, bool], Objects] | None = None,
        object_masks: bool = False,
    ) -> None:
        self.name, self.split, self.folder, self.classes = name, split, folder, tuple(classes)
        self.keys: Sequence[str] = Strings(keys)
        self.labels = torch.from_numpy(np.array(labels, dtype=np.int64).reshape(len(keys)))
        self.has_masks = region is not None
        self._annotations = None if annotations is None else Strings(str(path or "") for path in annotations)
        self._region_of, self._options, self._objects_of = region, options, objects
        self.has_objects, self.has_object_masks = objects is not None, object_masks
        self._last: Frame | None = None

    def path(self, index: int) -> Path:
        """The path of an image file."""
        return self.folder / self.keys[index]

    def image(self, index: int) -> Image.Image:
        image, self._last = read_image(self.path(index))
        return image

    def square(self, index: int, size: int) -> Image.Image:
        return read_square(self.path(index), size)

    def mask(self, index: int) -> Mask | None:
        annotation = self._annotation(index)
        if self._region_of is None or annotation is None:
            return None
        frame = self._frame(index)
        return frame.turn(self._region_of(annotation, frame, int(self.labels[index])), annotation)

    def objects(self, index: int, masks: bool = True) -> Objects | None:
        annotation = self._annotation(index)
        if self._objects_of is None or annotation is None:
            return None
        return self._objects_of(annotation, self._frame(index), int(self.labels[index]), masks)

    def dimensions(self, index: int) -> tuple[int, int]:
        return self._frame(index).upright

    def _annotation(self, index: int) -> Path | None:
        path = "" if self._annotations is None else self._annotations[index]
        return Path(path) if path else None

    def _frame(self, index: int) -> Frame:
        """The stored size and orientation of an image, without opening the file again if it has just been read."""
        path, last = self.path(index), self._last
        return last if last is not None and last.path == path else frame_of(path)

    def fingerprint(self) -> str:
        """A digest of keys, labels and region annotations, and of the size and first bytes of up to 8,192 evenly spaced
        image files. Files of small data sets are read completely. Folders and modification times do not matter.
        """
        digest = files_digest(self.labels, self.keys.__getitem__, lambda i: open_regular(self.path(i)))
        digest.update(self._regions_digest())
        return digest.hexdigest()

    def _regions_digest(self) -> bytes:
        options = b"" if self._options is None else repr(self._options).encode()
        files = self._annotations
        if files is None:
            return options
        digest = files_digest(self.labels, lambda i: os.path.basename(files[i]), lambda i: open_regular(Path(files[i])))
        return options + digest.digest()


def files_digest(labels: Tensor, name: Callable[[int], str], opened: Callable[[int], IO[bytes]]) -> hashlib._Hash:
    """A digest of all labels (N,), and of the name, size and first bytes of up to 8,192 evenly spaced files.

    At most 256 MiB are read. `name` and `opened` are functions from an index to the name and the open file.
    """
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
    """Open a file to read. Raises Unreadable if it cannot be opened, or is a pipe or the like, which could block."""
    if path.exists() and not path.is_file():
        raise Unreadable(f"{str(path)!r} is no file")
    try:
        return open(path, "rb")
    except OSError as error:
        raise Unreadable(f"{str(path)!r} cannot be opened ({error.strerror or error})") from error
