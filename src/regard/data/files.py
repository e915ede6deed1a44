"""Sets of image files in class folders, read while training: ImageNet as it is unpacked, or one's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from regard.data.dataset import Splits
from regard.data.decode import OnUnreadable, Unreadable
from regard.data.file_dataset import FileDataset
from regard.data.fileset import FileSet, Places, common
from regard.data.regions.folder import class_splits
from regard.data.registry import register_splits


@register_splits("files", streamed=True)
def load_files(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    unreadable: OnUnreadable = "error",
    crop_pct: float = 0.875,
    interpolation: str = "bilinear",
    workers: int = 4,
) -> Splits[FileSet]:
    """Find `train/` and `test/` (or `val/`, `valid/`, `validation/`) of class folders, and the images in them.

    Args:
        path: the folder.
        size: side of the images as the network sees them; None for 224.
        unreadable: as of `FileSet`, and so are the rest.
        crop_pct: likewise.
        interpolation: likewise.
        workers: likewise.

    Raises:
        InputError: nothing there, class folders for testing that those for training lack, a class without training
            images.
    """
    fields = common(
        "files", size, unreadable=unreadable, crop_pct=crop_pct, interpolation=interpolation, workers=workers
    )
    train, test = class_splits(path, "files")
    return Splits(
        FileSet(_places(train), split="train", classes=train.classes, **fields),
        FileSet(_places(test), split="test", classes=test.classes, **fields),
    )


def _places(found: FileDataset) -> Places:
    labels = found.labels.numpy()
    return Places(_Files(found.folder, [os.path.join(found.folder, key) for key in found.keys], labels), labels)


class _Files:
    """Reads files. Their paths are in one block: what is one object each is copied, bit by bit, into every process."""

    def __init__(self, folder: Path, paths: Sequence[str], labels: NDArray[np.int64]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._folder = folder
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self._paths = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, place: int) -> tuple[IO[bytes], int]:
        path = self.filename(place, absolute=True)
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise Unreadable(f"{path!r} is no file")
        return open(path, "rb"), int(self._labels[place])

    def filename(self, place: int, basename: bool = False, absolute: bool = False) -> str:
        start = self._ends[place - 1] if place else 0
        path = os.fsdecode(self._paths[start : self._ends[place]].tobytes())
        if basename:
            return os.path.basename(path)
        return path if absolute else os.path.relpath(path, self._folder)
