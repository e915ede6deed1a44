"""Sets of image files in class folders, read while training: ImageNet as it is unpacked, or one's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard.data.decode import OnUnreadable
from regard.data.fileset import FileSet, Places, common
from regard.data.imageset import Splits
from regard.data.listing import EXTENSIONS, class_folders, no_images, show, testing_folder, training_folder
from regard.errors import InputError, one_line


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
        InputError: nothing there, the two have different class folders, a class without images, images in folders
            within class folders.
    """
    fields = common(
        "files", size, unreadable=unreadable, crop_pct=crop_pct, interpolation=interpolation, workers=workers
    )
    first = training_folder(path)
    classes = class_folders(first)
    train = _found(first, classes)
    second = testing_folder(path)
    class_folders(second, classes, f"as in {show(first)}")
    return Splits(
        FileSet(train, split="train", classes=classes, **fields),
        FileSet(_found(second, classes), split="test", classes=classes, **fields),
    )


def _found(folder: Path, classes: tuple[str, ...]) -> Places:
    from timm.data.readers import create_reader

    try:
        reader: Any = create_reader("", str(folder), input_key=";".join(EXTENSIONS))
    except RuntimeError as error:  # not one image
        raise no_images(folder / classes[0]) from error
    except OSError as error:
        raise InputError(f"cannot list folder {show(folder)} ({one_line(error)}); make it readable") from error
    # timm goes by the innermost folder alone, whatever it is in.
    label_of = {os.path.join(folder, name): label for label, name in enumerate(classes)}
    samples: list[tuple[str, int]] = []
    for path, _ in reader.samples:
        place, name = os.path.split(path)
        if place in label_of:
            if not name.startswith("."):
                samples.append((path, label_of[place]))
        elif place != str(folder) and "/." not in place[len(str(folder)) :].replace(os.path.sep, "/"):
            raise InputError(
                f"{path!r} is deeper than in a class folder of {show(folder)}; put images into these folders themselves"
            )
    labels = np.array([label for _, label in samples], dtype=np.int64)
    for label, count in enumerate(np.bincount(labels, minlength=len(classes))):
        if not count:
            raise no_images(folder / classes[label])
    order = np.argsort(labels, kind="stable")
    # Held in a few blocks: what is one object for each image is copied, bit by bit, into the memory of every process.
    reader.samples = _Samples([samples[i][0] for i in order], labels[order])
    return Places(reader, labels[order])


class _Samples(Sequence[tuple[str, int]]):
    """Paths and labels of files."""

    def __init__(self, paths: Sequence[str], labels: NDArray[np.int64]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self._paths = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, place: Any) -> Any:
        start = self._ends[place - 1] if place else 0
        return os.fsdecode(self._paths[start : self._ends[place]].tobytes()), int(self._labels[place])
