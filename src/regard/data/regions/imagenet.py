"""ImageNet (ILSVRC) with boxes around the objects of each image's class (Russakovsky et al. 2015, IJCV 115)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from regard.data.file_dataset import FileDataset
from regard.data.listing import Tree, existing_folder, is_image, no_images, quote_names, show
from regard.data.regions.boxes import boxes_region
from regard.data.registry import pick_split, register
from regard.data.text_files import read_bytes
from regard.errors import InputError

_LAYOUT = (
    "expected a folder with images in val/<class>/ (or Data/CLS-LOC/val/) and boxes in Annotations/CLS-LOC/val/*.xml "
    "(or bbox/val/)"
)
_SPLITS = ("val", "train")
_IMAGES = ("Data/CLS-LOC", ".", "images")
_BOXES = ("Annotations/CLS-LOC", "Annotations", "bbox")
_SYNSET = re.compile(r"n\d{8}")
_FIRST_NAME = re.compile(rb"<name>\s*(n\d{8})\s*</name>")


def _root(path: Path) -> Path:
    return path / "ILSVRC" if (path / "ILSVRC").is_dir() else path


def _folders(root: Path, parents: Sequence[str]) -> dict[str, Path]:
    """The folder of each split, in the first of the parent folders that contains it."""
    return {
        split: root / parent / split
        for split in _SPLITS
        for parent in reversed(parents)
        if (root / parent / split).is_dir()
    }


def _recognised(path: Path) -> bool:
    root = _root(path)
    return bool(_folders(root, _IMAGES)) and bool(_folders(root, _BOXES))


@register("imagenet", layout=_LAYOUT, recognised=_recognised)
def open_imagenet(path: Path, split: str | None = None, images: str | None = None) -> FileDataset:
    """Opens a split, "val" or "train". `images` is the folder of the images, if it differs from ILSVRC's layout."""
    root = _root(path)
    boxes = _folders(root, _BOXES)
    if not boxes:
        raise InputError(
            f"no folder of boxes ({', '.join(f'{parent}/val' for parent in _BOXES)}) in {show(root)}; {_LAYOUT}"
        )
    if images is None:
        folders = _folders(root, _IMAGES)
    else:
        folder = existing_folder(images)
        folders = {name: folder / name for name in _SPLITS if (folder / name).is_dir()}
        folders = folders or dict.fromkeys(_SPLITS, folder)
    splits = [name for name in _SPLITS if name in boxes and name in folders]
    if not splits:
        raise InputError(
            f"boxes but no images ({', '.join(f'{parent}/val' for parent in _IMAGES)}) in {show(root)}; {_LAYOUT}"
        )
    split = pick_split(split, splits, root, _SPLITS)
    tree, box_tree = Tree(folders[split]), Tree(boxes[split])
    keys, box_keys = _pairs(tree, box_tree, split)
    by_class = "/" in keys[0]
    synsets = [key.split("/")[0] for key in keys] if by_class else _first_synsets(box_tree.root, box_keys)
    classes = sorted(set(synsets))
    label_of = {synset: i for i, synset in enumerate(classes)}
    labels = [label_of[synset] for synset in synsets]
    files, region = [box_tree.root / key for key in box_keys], partial(boxes_region, classes=classes)
    return FileDataset("imagenet", split, tree.root, keys, labels, classes, files, region)


def _pairs(images: Tree, boxes: Tree, split: str) -> tuple[list[str], list[str]]:
    """The sorted paths of the images, in class folders or in one folder, and the annotation file of each image."""
    folders = [name for name in images.folders() if _SYNSET.fullmatch(name)]
    keys = images.images(folders) if folders else [name for name in images.files() if is_image(name)]
    if not keys:
        raise no_images(images.root)
    pairs, unpaired = {}, []
    for key in keys:
        stem = key.rpartition(".")[0]
        name = stem.rpartition("/")[2]
        # Annotations are in class folders for training images, but not for validation images.
        paths = [f"{stem}.xml", f"{name}.xml", f"{name.partition('_')[0]}/{name}.xml"]
        path = next((path for path in paths if boxes.has(path)), None)
        if path is None:
            unpaired.append(key)
        else:
            pairs[key] = path
    # Only some of the training images have boxes.
    if unpaired and (split != "train" or not pairs):
        raise InputError(
            f"{len(unpaired)} of the {len(keys)} images in {show(images.root)} have no boxes in {show(boxes.root)} "
            f"({quote_names(unpaired, 3)}); expected an .xml file of the same name"
        )
    return list(pairs), list(pairs.values())


def _first_synsets(folder: Path, files: Sequence[str]) -> list[str]:
    """The first class named in each annotation file. The XML is not parsed, because there may be 50,000 files."""
    synsets = []
    for name in files:
        match = _FIRST_NAME.search(read_bytes(folder / name))
        if match is None:
            raise InputError(
                f"{show(folder / name)} names no class; get it again, or put the images into class folders"
            )
        synsets.append(match[1].decode())
    return synsets
