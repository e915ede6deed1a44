"""MIT's indoor scenes, of 67 kinds (Quattoni and Torralba 2009, "Recognizing indoor scenes")."""

from __future__ import annotations

import os
from pathlib import Path

from regard.data.dataset import InMemoryDataset, Splits
from regard.data.decode import OnUnreadable
from regard.data.file_dataset import FileDataset
from regard.data.in_memory import MEMORY_LIMIT, check_reading, read_splits
from regard.data.listing import Tree, existing_folder, show
from regard.data.registry import register, register_splits
from regard.data.text_files import check_inside, read_text
from regard.errors import InputError, unknown

_LISTS = {"train": "TrainImages.txt", "test": "TestImages.txt"}
_LAYOUT = f"expected a folder with Images/ (of class folders), {_LISTS['train']} and {_LISTS['test']}"


@register("scenes", layout=_LAYOUT, recognised=lambda path: (path / _LISTS["train"]).is_file())
def open_scenes(path: Path, split: str | None = None) -> FileDataset:
    """The images of one of the two lists, about 80 of a class for training, about 20 for testing, without masks.

    Raises:
        InputError: files that are missing or malformed.
    """
    split = "test" if split is None else split
    if split not in _LISTS:
        raise unknown("split of data set 'scenes'", split, _LISTS)
    if not (path / "Images").is_dir():
        raise InputError(f"no folder Images/ in {show(path)}; {_LAYOUT}")
    keys = {name: _keys(path / file) for name, file in _LISTS.items()}
    tree = Tree(path / "Images")
    tree.check(keys[split], f"images that {_LISTS[split]} names", "unpack the set there again")
    classes = sorted({key.partition("/")[0] for key in keys["train"]})
    labels = {name: label for label, name in enumerate(classes)}
    for key in keys["test"]:
        if key.partition("/")[0] not in labels:
            raise InputError(
                f"{show(path / _LISTS['test'])} names {key!r}, of a class that {_LISTS['train']} has no image of; get "
                "both again"
            )
    return FileDataset(
        "scenes", split, tree.root, keys[split], [labels[key.partition("/")[0]] for key in keys[split]], classes
    )


@register_splits("scenes")
def load_scenes(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    unreadable: OnUnreadable = "error",
    memory_limit: int = MEMORY_LIMIT,
) -> Splits[InMemoryDataset]:
    """Read both, as `read_into_memory` does. 1 GiB is needed for the training images at 256 pixels."""
    check_reading(size, unreadable, memory_limit)
    if size is None:
        raise InputError("the images of data set 'scenes' are of many sizes; give one for all (--data.size 256)")
    root = existing_folder(path, _LAYOUT)
    train, test = (open_scenes(root, split) for split in _LISTS)
    return read_splits(train, test, size=size, unreadable=unreadable, memory_limit=memory_limit)


def _keys(path: Path) -> list[str]:
    """The images that a list names; each line is class/file.jpg, from Images/."""
    if not path.is_file():
        raise InputError(f"no file {path.name} in {show(path.parent)}; {_LAYOUT}")
    keys = [check_inside(line.strip(), path) for line in read_text(path).splitlines() if line.strip()]
    if not keys:
        raise InputError(f"{show(path)} has no lines; expected an image in each, as class/file.jpg")
    for key in keys:
        if "/" not in key:
            raise InputError(f"{show(path)} names {key!r}; expected class/file.jpg")
    return keys
