"""ImageNet: ILSVRC's images with boxes around the objects of their class (Russakovsky et al. 2015, IJCV 115)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from regard.data.dataset import Mask
from regard.data.decode import Frame
from regard.data.file_dataset import FileDataset
from regard.data.listing import EXTENSIONS, is_image, read_bytes, show
from regard.data.regions.kind import Choices, Kind, pick_split
from regard.data.regions.pascal import read_boxes
from regard.data.regions.shapes import box_mask
from regard.data.regions.tree import Tree
from regard.errors import InputError

_SPLITS = ("val", "train")
_IMAGES = ("Data/CLS-LOC", ".", "images")
_BOXES = ("Annotations/CLS-LOC", "Annotations", "bbox")
_SYNSET = re.compile(r"n\d{8}")
_FIRST_NAME = re.compile(rb"<name>\s*(n\d{8})\s*</name>")


class ImageNetDataset(FileDataset):
    """The images of a split, each with the boxes of its class as region."""

    def _region(self, index: int, frame: Frame) -> Mask:
        found = read_boxes(self._annotation(index))
        size = found.size or frame[:2]
        self._check_size(index, frame, size)
        label = self.classes[self.labels[index]]
        return box_mask([box for name, box in found.objects if name == label], *size)


def _root(where: Path) -> Path:
    return where / "ILSVRC" if (where / "ILSVRC").is_dir() else where


def _folders(root: Path, places: Sequence[str]) -> dict[str, Path]:
    """The folder of each split, in the first of the places that have it."""
    return {
        split: root / place / split
        for split in _SPLITS
        for place in reversed(places)
        if (root / place / split).is_dir()
    }


def _recognised(where: Path) -> bool:
    root = _root(where)
    return bool(_folders(root, _IMAGES)) and bool(_folders(root, _BOXES))


def _open(where: Path, choices: Choices) -> ImageNetDataset:
    root = _root(where)
    boxes = _folders(root, _BOXES)
    if not boxes:
        raise InputError(
            f"no folder of boxes ({', '.join(f'{place}/val' for place in _BOXES)}) in {show(root)}; {KIND.layout}"
        )
    if choices.images is None:
        images = _folders(root, _IMAGES)
    else:
        images = {split: choices.images / split for split in _SPLITS if (choices.images / split).is_dir()}
        images = images or dict.fromkeys(_SPLITS, choices.images)
    there = [split for split in _SPLITS if split in boxes and split in images]
    if not there:
        raise InputError(
            f"boxes but no images ({', '.join(f'{place}/val' for place in _IMAGES)}) in {show(root)}; {KIND.layout}"
        )
    split = pick_split(choices.split, there, root, _SPLITS)
    tree, marks = Tree(images[split]), Tree(boxes[split])
    keys, box_keys = _pairs(tree, marks, split)
    by_class = "/" in keys[0]
    synsets = [key.split("/")[0] for key in keys] if by_class else _named(marks.root, box_keys)
    classes = sorted(set(synsets))
    place = {synset: i for i, synset in enumerate(classes)}
    labels = [place[synset] for synset in synsets]
    return ImageNetDataset("imagenet", split, tree.root, keys, labels, classes, [marks.root / key for key in box_keys])


def _pairs(images: Tree, boxes: Tree, split: str) -> tuple[list[str], list[str]]:
    """The images, sorted, in folders by class or all in one, and the file of boxes of each."""
    folders = [name for name in images.folders() if _SYNSET.fullmatch(name)]
    keys = images.images(folders) if folders else [name for name in images.files() if is_image(name)]
    if not keys:
        raise InputError(
            f"no images in {show(images.root)}; expected {', '.join(EXTENSIONS)} files, by class or all in one"
        )
    found, without = {}, []
    for key in keys:
        stem = key.rpartition(".")[0]
        name = stem.rpartition("/")[2]
        # Boxes of training images are by class as well, those of validation images are not.
        places = [f"{stem}.xml", f"{name}.xml", f"{name.partition('_')[0]}/{name}.xml"]
        place = next((path for path in places if boxes.has(path)), None)
        if place is None:
            without.append(key)
        else:
            found[key] = place
    # Only some of the training images have boxes.
    if without and (split != "train" or not found):
        first = ", ".join(map(repr, without[:3])) + (", …" if len(without) > 3 else "")
        raise InputError(
            f"{len(without)} of the {len(keys)} images in {show(images.root)} have no boxes in {show(boxes.root)} "
            f"({first}); expected an .xml file of the same name"
        )
    return list(found), list(found.values())


def _named(folder: Path, files: Sequence[str]) -> list[str]:
    """The class that each file of boxes names first. Only looked for, not parsed: there may be 50,000 of them."""
    named, without = [], []
    for name in files:
        found = _FIRST_NAME.search(read_bytes(folder / name))
        if found is None:
            without.append(name)
        else:
            named.append(found[1].decode())
    if without:
        raise InputError(
            f"{len(without)} of the {len(files)} files of boxes in {show(folder)} name no class ({without[0]!r} is the "
            "first); get them again, or put the images into folders by class"
        )
    return named


KIND = Kind(
    "imagenet",
    "expected a folder with images in val/<class>/ (or Data/CLS-LOC/val/) and boxes in Annotations/CLS-LOC/val/*.xml "
    "(or bbox/val/)",
    _recognised,
    _open,
    frozenset({"split", "images"}),
)
