"""Class folders of images, without masks, such as ImageNet or a user's images."""

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
    SPLITS,
    TEST_NAMES,
    Tree,
    existing_folder,
    images_below,
    is_image,
    no_images,
    quote_names,
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
    """Opens a split, or all images if there are no splits."""
    splits = [name for name in SPLITS if (path / name).is_dir()]
    if not splits and split is None:
        return class_folders(path)
    split = pick_split(split, splits, path, SPLITS)
    return class_folders(path / split, split, testing=split != "train")


@register_splits("folder", resized=True)
def load_folder(path: str | os.PathLike[str]) -> Splits[FileDataset]:
    """Loads class folders in `train/` and in `test/`, or in the first of `val/`, `valid/` and `validation/` that
    exists.

    Test images must have classes of the training images. A warning lists classes without test images.
    """
    return class_splits(path, "folder")


@register_splits("files", streamed=True)
def load_files(path: str | os.PathLike[str]) -> Splits[FileDataset]:
    """Opens the same folders for streaming, in the order of timm's folder reader."""
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
    """Reads a folder of class folders into memory, sorted by class and then by path.

    Images are files with an extension of `regard.data.EXTENSIONS`, in upper or lower case, anywhere below a class
    folder; symbolic links are followed. Other files, hidden files, and folders created by operating systems and
    archivers are ignored. All images are converted to 8-bit RGB: the EXIF orientation is applied, the first frame of an
    animation is used, 16 bits are reduced to 8, and transparency is dropped.

    Args:
        path: the folder.
        size, unreadable, memory_limit: as in `read_into_memory`.
        classes: the expected names of the class folders, in order of the labels; None for all class folders, sorted.
        split: "train" or "test".

    Raises:
        InputError: the folder does not exist, has no class folders, or has a class without (readable) images; and as in
            `read_into_memory`.
    """
    images = class_folders(existing_folder(path), split, classes=classes)
    return read_into_memory(images, size=size, unreadable=unreadable, memory_limit=memory_limit)


def class_folders(
    folder: Path,
    split: str = "",
    *,
    name: str = "folder",
    classes: Sequence[str] | None = None,
    testing: bool = False,
) -> FileDataset:
    """Lists the images in a folder of class folders, sorted by class and then by path.

    With the name "files", numbers in file names are sorted by their value, as in timm. `classes` are the expected names
    of the class folders in order of the labels; None for all class folders, sorted. With `testing`, they are the
    classes of the training images, and those without images are only listed in a warning.
    """
    from timm.utils.misc import natural_key

    tree = Tree(folder)
    folders = tree.folders()
    if not folders:
        images = sum(map(is_image, tree.files()))
        problem = f"{images} images but no class folders" if images else "no class folders"
        raise InputError(f"{problem} in {show(folder)}; expected a folder for each class with its images in it")
    names = tuple(folders) if classes is None else unique(classes, "classes")
    missing, unexpected = sorted(set(names) - set(folders)), sorted(set(folders) - set(names))
    if unexpected or (missing and not testing):
        differences = {"missing": missing, "unexpected": unexpected}
        parts = [f"{problem} {quote_names(folders)}" for problem, folders in differences.items() if folders]
        raise InputError(
            f"the class folders of {show(folder)} differ: {', '.join(parts)}; expected the {len(names)} "
            f"{'of the training images' if testing else 'given as classes'}"
        )
    keys: list[str] = []
    counts: list[int] = []
    for class_name in names:
        files, other_files = images_below(folder / class_name) if class_name in folders else ([], 0)
        if not files and not testing:
            raise InputError(f"{no_images(folder / class_name, other_files)}: add some, or remove the class")
        files.sort(key=lambda file: file.split("/"))
        if name == "files":
            files.sort(key=natural_key)
        keys += [f"{class_name}/{file}" for file in files]
        counts.append(len(files))
    empty = [class_name for class_name, count in zip(names, counts, strict=True) if not count]
    if not keys:
        raise no_images(folder / folders[0])
    if empty:
        warnings.warn(f"classes without test images in {show(folder)}: {quote_names(empty)}", DataWarning, stacklevel=2)
    return FileDataset(name, split, folder, keys, np.repeat(np.arange(len(names)), counts), names)


def class_splits(path: str | os.PathLike[str], name: str) -> Splits[FileDataset]:
    """Lists the images of both splits in a folder; see `load_folder`."""
    root = existing_folder(path, _LAYOUT)
    train = class_folders(existing_folder(root / "train", _LAYOUT), "train", name=name)
    folder = next((root / test for test in TEST_NAMES if (root / test).is_dir()), None)
    if folder is None:
        raise InputError(f"none of the folders {', '.join(TEST_NAMES)} in {show(root)}; {_LAYOUT}")
    return Splits(train, class_folders(folder, "test", name=name, classes=train.classes, testing=True))
