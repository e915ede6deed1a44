"""MIT Indoor Scenes, 67 classes (Quattoni and Torralba 2009, "Recognizing indoor scenes")."""

from __future__ import annotations

from pathlib import Path

from regard.data.file_dataset import FileDataset
from regard.data.listing import Tree, show
from regard.data.registry import register
from regard.data.text_files import check_inside, read_lines
from regard.errors import InputError, unknown

_LISTS = {"train": "TrainImages.txt", "test": "TestImages.txt"}
_LAYOUT = f"expected a folder with Images/ (of class folders), {_LISTS['train']} and {_LISTS['test']}"


@register("scenes", layout=_LAYOUT, recognised=lambda path: (path / _LISTS["train"]).is_file(), resized=True)
def open_scenes(path: Path, split: str | None = None) -> FileDataset:
    """Opens a split, without masks: about 80 images per class in "train", about 20 in "test".

    The training images need 1 GiB of memory at 256 pixels.
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


def _keys(path: Path) -> list[str]:
    """Reads a list of image paths relative to Images/, class/file.jpg."""
    if not path.is_file():
        raise InputError(f"no file {path.name} in {show(path.parent)}; {_LAYOUT}")
    keys = [check_inside(line, path) for line in read_lines(path, "an image, as class/file.jpg,")]
    for key in keys:
        if "/" not in key:
            raise InputError(f"{show(path)} names {key!r}; expected class/file.jpg")
    return keys
