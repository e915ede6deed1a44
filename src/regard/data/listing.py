"""Which files a folder of class folders holds; what is wrong with it that shows before any image is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regard.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
TEST_NAMES = ("test", "val", "valid", "validation")
_LAYOUT = "it must hold train/ and test/ (or val/, valid/, validation/), each with a folder for each class"


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of a folder of class folders: each file with its label, an index into classes.

    Attributes:
        folder: of the class folders.
        classes: their names.
        files: the images.
        labels: (N,).
        boxes: (N, 4), what to cut out of each image as its file stores it, in whole pixels: left, top, right, bottom;
            None: nothing.
    """

    folder: Path
    classes: tuple[str, ...]
    files: list[Path]
    labels: NDArray[np.int64]
    boxes: NDArray[np.int64] | None = None


def list_splits(path: str | os.PathLike[str]) -> tuple[Listing, Listing]:
    """The images for training and for testing in a folder.

    Raises:
        InputError: one of the two is not there, their class folders differ, or see `list_folder`.
    """
    train = list_folder(training_folder(path))
    return train, list_folder(testing_folder(path), train.classes, f"as in {show(train.folder)}")


def training_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of the training images in a folder. Raises InputError where it is not there."""
    return existing_folder(existing_folder(path, _LAYOUT) / "train", _LAYOUT)


def testing_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of the test images in a folder. Raises InputError where none is there."""
    root = existing_folder(path, _LAYOUT)
    folder = next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)
    if folder is None:
        raise InputError(f"no {_or(TEST_NAMES)} folder in {show(root)}; {_LAYOUT}")
    return folder


def list_folder(
    path: str | os.PathLike[str], classes: Sequence[str] | None = None, wanted_by: str = "as asked for"
) -> Listing:
    """The images in a folder of class folders, in order of class and then of path; hidden files are passed over.

    Args:
        path: the folder.
        classes: the names that the class folders must have, in the order of the labels; None for any, sorted.
        wanted_by: for the error, where those names come from.

    Raises:
        InputError: no such folder, no class folders or other ones, or one without images.
    """
    folder = existing_folder(path)
    names = class_folders(folder, classes, wanted_by)
    by_class = [_image_files(folder / name) for name in names]
    labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(files) for files in by_class])
    return Listing(folder, names, [file for files in by_class for file in files], labels)


def class_folders(
    folder: Path, classes: Sequence[str] | None = None, wanted_by: str = "as asked for"
) -> tuple[str, ...]:
    """The names of the class folders in a folder, in the order of the labels; see `list_folder`."""
    found = _class_folders(folder)
    names = tuple(found) if classes is None else tuple(dict.fromkeys(classes))
    if set(names) != set(found):
        raise InputError(f"the class folders of {show(folder)} differ: {_difference(names, found)} {wanted_by}")
    return names


def existing_folder(path: str | os.PathLike[str], expected: str = "give a folder that is there") -> Path:
    """The path of a folder.

    Raises:
        InputError: it is not there, or no folder.
    """
    folder = Path(path).expanduser()
    if not os.path.exists(folder):
        raise InputError(f"no folder {show(folder)}; {expected}")
    if not os.path.isdir(folder):
        raise InputError(f"{show(folder)} is a file, not a folder; {expected}")
    return folder


def show(path: Path) -> str:
    """A path for a message: quoted and escaped, so that no name can break the line."""
    return repr(str(path))


def _class_folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            visible = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise _unlistable(error) from error
    names = sorted(name for name, is_folder in visible if is_folder)
    if not names:
        loose = sum(_is_image(name) for name, _ in visible)
        what = f"{loose} images but no class folders" if loose else "no class folders"
        raise InputError(f"{what} in {show(folder)}; expected a folder for each class with its images in it")
    return names


def _image_files(folder: Path) -> list[Path]:
    def fail(error: OSError) -> None:
        raise _unlistable(error) from error

    files: list[Path] = []
    others = 0
    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [name for name in names if not name.startswith(".")]
        images = [Path(place, name) for name in visible if _is_image(name)]
        files += images
        others += len(visible) - len(images)
    if not files:
        raise no_images(folder, others)
    return sorted(files)


def no_images(folder: Path, others: int = 0) -> InputError:
    """The error for a class folder without images, though with so many other files."""
    beside = f" (but {others} other files)" if others else ""
    return InputError(
        f"no images in class folder {show(folder)}{beside}; expected {_or(EXTENSIONS)} files: add some, or remove the "
        "folder"
    )


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _unlistable(error: OSError) -> InputError:
    return InputError(f"cannot list folder {str(error.filename)!r} ({error.strerror}); make it readable")


def _difference(expected: Sequence[str], found: Sequence[str]) -> str:
    parts = []
    for what, names in (("missing", set(expected) - set(found)), ("unexpected", set(found) - set(expected))):
        if names:
            first = ", ".join(map(repr, sorted(names)[:5]))
            parts.append(f"{what} {first}{f' and {len(names) - 5} more' if len(names) > 5 else ''}")
    return f"{', '.join(parts)}; expected the {len(expected)}"


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
