"""Class folders of images, without masks: ImageNet as it is unpacked, or one's own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from regard.data.dataset import InMemoryDataset, Splits
from regard.data.decode import OnUnreadable
from regard.data.file_dataset import FileDataset
from regard.data.in_memory import MEMORY_LIMIT, read_into_memory
from regard.data.listing import (
    EXTENSIONS,
    SPLITS,
    TEST_NAMES,
    Tree,
    existing_folder,
    first_of,
    images_below,
    is_image,
    show,
)
from regard.data.registry import pick_split, register, register_splits
from regard.data.text_files import unique
from regard.errors import DataWarning, InputError

_LAYOUT = "it must hold train/ and test/ (or val/, valid/, validation/), each with a folder for each class"


@register(
    "folder",
    layout="expected a folder for each class with its images in it, or such folders in test/, val/ or train/",
    recognised=lambda path: bool(Tree(path).folders()),
)
def open_folder(path: Path, split: str | None = None) -> FileDataset:
    """The images of a split; of class folders without splits, all."""
    splits = [name for name in SPLITS if (path / name).is_dir()]
    if not splits and split is None:
        return class_folders(path)
    split = pick_split(split, splits, path, SPLITS)
    return class_folders(path / split, split, testing=split != "train")


@register_splits("folder", resized=True)
def load_folder(path: str | os.PathLike[str]) -> Splits[FileDataset]:
    """`train/` and `test/` (or `val/`, `valid/`, `validation/`: the first that is there) of class folders.

    The class folders for testing are among those for training; of classes without test images a warning tells.
    """
    return class_splits(path, "folder")


@register_splits("files", streamed=True)
def load_files(path: str | os.PathLike[str]) -> Splits[FileDataset]:
    """The same folders, in the order of timm's reader of folders, to be read while training."""
    return class_splits(path, "files")


def read_folder(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    unreadable: OnUnreadable = "error",
    classes: Sequence[str] | None = None,
    split: str = "train",
    memory_limit: int = MEMORY_LIMIT,
) -> InMemoryDataset:
    """Read a folder of class folders: one set, in order of class and then of path.

    Images are the files with an ending of `regard.data.EXTENSIONS`, in any case, in a class folder and the folders in
    it, linked ones too; other files, hidden ones, and folders that devices and archives make are passed over. Images of
    every kind become RGB: they are turned upright as their EXIF orientation says, of an animation the first picture
    counts, 16 bits become 8, transparency is dropped.

    Args:
        path: the folder.
        size, unreadable, memory_limit: as of `read_into_memory`.
        classes: the names that the class folders must have, in the order of the labels; None for those that are there,
            sorted.
        split: what the set is for, "train" or "test".

    Raises:
        InputError: nothing there, no class folders, a class without (readable) images, and as `read_into_memory`.
    """
    images = class_folders(existing_folder(path), split, classes=classes)
    return read_into_memory(images, size=size, unreadable=unreadable, memory_limit=memory_limit)


def class_folders(
    folder: Path,
    split: str = "",
    *,
    name: str = "folder",
    classes: Sequence[str] | None = None,
    wanted_by: str = "as asked for",
    testing: bool = False,
) -> FileDataset:
    """The images in a folder of class folders, in order of class and then of path.

    Args:
        folder: the folder.
        split: as of `ImageDataset`.
        name: likewise; those of "files" are in timm's order: numbers in names count.
        classes: the names that the class folders must have, in the order of the labels; None for any, sorted.
        wanted_by: who says so.
        testing: classes may be without images; a warning names them.
    """
    from timm.utils.misc import natural_key

    tree = Tree(folder)
    folders = tree.folders()
    if not folders:
        loose = sum(map(is_image, tree.files()))
        problem = f"{loose} images but no class folders" if loose else "no class folders"
        raise InputError(f"{problem} in {show(folder)}; expected a folder for each class with its images in it")
    names = tuple(folders) if classes is None else unique(classes, "classes")
    missing, unexpected = sorted(set(names) - set(folders)), sorted(set(folders) - set(names))
    if unexpected or (missing and not testing):
        both = {"missing": missing, "unexpected": unexpected}
        parts = [f"{problem} {first_of(names)}" for problem, names in both.items() if names]
        raise InputError(
            f"the class folders of {show(folder)} differ: {', '.join(parts)}; expected the {len(names)} {wanted_by}"
        )
    keys: list[str] = []
    counts: list[int] = []
    for one in names:
        files, other_files = images_below(folder / one) if one in folders else ([], 0)
        if not files and not testing:
            raise _no_images(folder / one, other_files)
        files.sort(key=lambda file: file.split("/"))
        if name == "files":
            files.sort(key=natural_key)
        keys += [f"{one}/{file}" for file in files]
        counts.append(len(files))
    without = [one for one, count in zip(names, counts, strict=True) if not count]
    if not keys:
        raise _no_images(folder / folders[0])
    if without:
        warnings.warn(f"classes without test images in {show(folder)}: {first_of(without)}", DataWarning, stacklevel=2)
    return FileDataset(name, split, folder, keys, np.repeat(np.arange(len(names)), counts), names)


def class_splits(path: str | os.PathLike[str], name: str) -> Splits[FileDataset]:
    """The images for training and for testing in a folder; see `load_folder`."""
    root = existing_folder(path, _LAYOUT)
    train = class_folders(existing_folder(root / "train", _LAYOUT), "train", name=name)
    folder = next((root / test for test in TEST_NAMES if (root / test).is_dir()), None)
    if folder is None:
        raise InputError(f"no {_or(TEST_NAMES)} folder in {show(root)}; {_LAYOUT}")
    wanted_by = f"as in {show(train.folder)}"
    test = class_folders(folder, "test", name=name, classes=train.classes, wanted_by=wanted_by, testing=True)
    return Splits(train, test)


def _no_images(folder: Path, other_files: int = 0) -> InputError:
    """The error for a class folder without images, though with so many other files."""
    beside = f" (but {other_files} other files)" if other_files else ""
    return InputError(
        f"no images in class folder {show(folder)}{beside}; expected {_or(EXTENSIONS)} files: add some, or remove the "
        "folder"
    )


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
