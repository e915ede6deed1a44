"""MIT's indoor scenes, of 67 kinds (Quattoni and Torralba 2009, "Recognizing indoor scenes")."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from regard.data.dataset import Splits
from regard.data.decode import OnUnreadable, quiet
from regard.data.listing import Listing, existing_folder, read_text, show
from regard.data.regions.tree import Tree, check_all_there, check_inside
from regard.data.whole import MEMORY_LIMIT, check_choices, read_splits
from regard.errors import InputError

_LISTS = ("TrainImages.txt", "TestImages.txt")
_LAYOUT = f"expected a folder with Images/ (of class folders), {_LISTS[0]} and {_LISTS[1]}"


def load_scenes(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    unreadable: OnUnreadable = "error",
    memory_limit: int = MEMORY_LIMIT,
) -> Splits:
    """Read the images that its two lists name: about 80 of a class for training, about 20 for testing.

    Args:
        path: the folder with `Images/`, `TrainImages.txt` and `TestImages.txt`; each line of a list is
            `class/file.jpg`, from `Images/`.
        size: as of `read_folder`; needed, for the images are of many sizes.
        unreadable: as of `read_folder`.
        memory_limit: as of `read_folder`, for each of the two. 1 GiB is needed at 256 pixels.

    Raises:
        InputError: no size, files that are missing or malformed, an unreadable file, or more bytes than allowed.
    """
    check_choices(size, unreadable, memory_limit)
    if size is None:
        raise InputError("the images of data set 'scenes' are of many sizes; give one for all (--data.size 256)")
    root = existing_folder(path, _LAYOUT)
    if not (root / "Images").is_dir():
        raise InputError(f"no folder Images/ in {show(root)}; {_LAYOUT}")
    tree = Tree(root / "Images")
    train, test = (_named(root / name, tree) for name in _LISTS)
    classes = tuple(sorted({key.partition("/")[0] for key in train}))
    for key in test:
        if key.partition("/")[0] not in classes:
            raise InputError(
                f"{show(root / _LISTS[1])} names {key!r}, of a class that {_LISTS[0]} has no image of; get both again"
            )
    with quiet():
        listings = [_listing(tree.root, classes, keys) for keys in (train, test)]
        return read_splits("scenes", listings, size, unreadable, memory_limit)


def _named(path: Path, tree: Tree) -> list[str]:
    """The images that a list names, all of them there."""
    if not path.is_file():
        raise InputError(f"no file {path.name} in {show(path.parent)}; {_LAYOUT}")
    keys = [check_inside(line.strip(), path) for line in read_text(path).splitlines() if line.strip()]
    if not keys:
        raise InputError(f"{show(path)} has no lines; expected an image in each, as class/file.jpg")
    for key in keys:
        if "/" not in key:
            raise InputError(f"{show(path)} names {key!r}; expected class/file.jpg")
    check_all_there(tree, keys, f"images that {path.name} names", "unpack the set there again")
    return keys


def _listing(folder: Path, classes: tuple[str, ...], keys: list[str]) -> Listing:
    places = {name: place for place, name in enumerate(classes)}
    labels = np.array([places[key.partition("/")[0]] for key in keys], dtype=np.int64)
    return Listing(folder, classes, [folder / key for key in keys], labels)
