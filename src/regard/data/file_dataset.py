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
from regard.data.decode import Frame, Unreadable, read_frame, read_image, read_square
from regard.data.objects import Objects
from regard.data.text_files import Strings

_MAX_FILES = 8192  # files read for a fingerprint
_MAX_BYTES = 2**28  # bytes read for a fingerprint, over all files


class FileDataset(ImageDataset):
    """Image files below one folder. The key of an image is its path relative to the folder.

    Each image may have an annotation file in `annotations`. From the file, the image's `Frame` and its label, `region`
    returns the mask, bool (H, W), of the stored or the upright image; from these and whether to read masks, `objects`
    returns the objects. `options` are values that define the regions; they change the fingerprint.
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
        self._read_region, self._options, self._read_objects = region, options, objects
        self.has_objects, self.has_object_masks = objects is not None, object_masks
        self._last_frame: Frame | None = None

    def path(self, index: int) -> Path:
        """The path of an image file."""
        return self.folder / self.keys[index]

    def image(self, index: int) -> Image.Image:
        image, self._last_frame = read_image(self.path(index))
        return image

    def square(self, index: int, size: int) -> Image.Image:
        return read_square(self.path(index), size)

    def mask(self, index: int) -> Mask | None:
        annotation = self._annotation(index)
        if self._read_region is None or annotation is None:
            return None
        frame = self._frame(index)
        return frame.turn(self._read_region(annotation, frame, int(self.labels[index])), annotation)

    def objects(self, index: int, masks: bool = True) -> Objects | None:
        annotation = self._annotation(index)
        if self._read_objects is None or annotation is None:
            return None
        return self._read_objects(annotation, self._frame(index), int(self.labels[index]), masks)

    def dimensions(self, index: int) -> tuple[int, int]:
        return self._frame(index).upright

    def _annotation(self, index: int) -> Path | None:
        path = "" if self._annotations is None else self._annotations[index]
        return Path(path) if path else None

    def _frame(self, index: int) -> Frame:
        """The stored size and orientation of an image; the image that was read last is not opened again."""
        path, last_frame = self.path(index), self._last_frame
        return last_frame if last_frame is not None and last_frame.path == path else read_frame(path)

    def fingerprint(self) -> str:
        """A digest of keys, labels and annotations, and of the size and first bytes of up to 8,192 evenly spaced image
        files. Files of small data sets are read completely. The folder and modification times do not matter."""
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


def files_digest(labels: Tensor, name: Callable[[int], str], open_file: Callable[[int], IO[bytes]]) -> hashlib._Hash:
    """A digest of all labels (N,), and of the name, size and first bytes of up to 8,192 evenly spaced files.

    At most 256 MiB are read. `name` and `open_file` map an index to the name and the open file.
    """
    count, sampled = len(labels), min(len(labels), _MAX_FILES)
    digest = hashlib.sha256(f"{count}\n".encode() + labels.numpy().tobytes())
    for i in (sample * count // sampled for sample in range(sampled)):
        digest.update(f"{name(i)}\n".encode(errors="surrogateescape"))
        with suppress(OSError, Unreadable), open_file(i) as file:
            digest.update(f"{file.seek(0, os.SEEK_END)}\n".encode())
            file.seek(0)
            digest.update(file.read(_MAX_BYTES // sampled))
    return digest


def open_regular(path: Path) -> IO[bytes]:
    """Opens a file for reading. Raises Unreadable if it cannot be opened, or is not regular: a pipe could block."""
    if path.exists() and not path.is_file():
        raise Unreadable(f"{str(path)!r} is not a regular file")
    try:
        return open(path, "rb")
    except OSError as error:
        raise Unreadable(f"{str(path)!r} cannot be opened ({error.strerror or error})") from error
