"""The data set `composites`: objects cut out of photographs by their masks, on other photographs.

Waterbirds (Sagawa et al. 2020, "Distributionally Robust Neural Networks for Group Shifts", arXiv 1911.08731) made from
parts: a class has backgrounds that usually come with it, and how often they do is a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from regard.data.dataset import ImageDataset, InMemoryDataset, Splits, channel_statistics
from regard.data.decode import Unreadable, read_image
from regard.data.listing import EXTENSIONS, Tree, existing_folder, show
from regard.data.objects import boxes_of
from regard.data.random import Integers, RandomStream, check_seed
from regard.data.registry import register_splits
from regard.errors import InputError, check_interval, first_line, unknown

Pixels = NDArray[np.uint8]

MOST = 500
"""Cut-outs of a class, at most, in each split."""
LEAST = 16
"""Pixels of the longer side of an object's box, at least, for a cut-out."""
EVERY = 5
"""Every fifth background, and of a set without a training split every fifth image with objects, is for testing."""

_CROPS = (60, 100)  # side of the crop of a background, in percent of its shorter side


@dataclass(frozen=True, eq=False)
class CompositeDataset(InMemoryDataset):
    """Composites, with the background of each.

    It has this besides the attributes of `InMemoryDataset`.

    Attributes:
        backgrounds: int64 (N,), the class whose backgrounds each image's is one of.
    """

    backgrounds: Tensor = field(kw_only=True)

    @property
    def groups(self) -> tuple[str, ...]:
        """The class of each image and that of its background, as in "dog on cat"."""
        pairs = zip(self.labels.tolist(), self.backgrounds.tolist(), strict=True)
        return tuple(f"{self.classes[label]} on {self.classes[background]}" for label, background in pairs)

    @property
    def agrees(self) -> Tensor:
        """Whether the background is one of those of the label, bool (N,)."""
        return self.backgrounds == self.labels


@register_splits("composites")
def composites(
    *,
    foregrounds: str = "",
    backgrounds: str = "",
    classes: list[str] | None = None,
    train: int = 2000,
    test: int = 500,
    side: int = 96,
    smallest: float = 0.4,
    largest: float = 0.7,
    cue: float = 0.9,
    test_cue: float = 0.0,
    seed: int = 0,
) -> Splits:
    """Make composites: each image shows one object, cut out by its mask, on a crop of a photograph.

    The photographs are sorted by how much more red than blue they are in the mean, and divided into as many parts of
    equal size as there are classes: from those of sky and water to those of earth and lamp light. With probability
    `cue` an image has a background of the part of its label, otherwise of a part drawn uniformly from all: as in
    `clutter`, the two agree with probability cue + (1 - cue) / classes. Objects, their size and their place do not
    depend on the cue.

    Test images have other photographs, every fifth of each part, and other objects: those of the held-out split of the
    set of objects, or, where it has one split only, those in every fifth of its images.

    A pixel belongs to the object if its mask covers at least half of it, and is then the object's alone: the edges are
    not smoothed, and the region is exact. Colours beside the object do not get into it.

    Args:
        foregrounds: a data set with masks of single objects, "KIND:FOLDER" as in `open_regions`, such as coco or masks
            (with instances). Groups of objects in one annotation (COCO's crowds), and those whose box has fewer than 16
            pixels in its longer side are left out.
        backgrounds: a folder of photographs.
        classes: names of classes of the foregrounds, or several as one, "animal=dog+bird"; None for all that have
            objects for training and for testing.
        train: number of training images; classes are balanced to within one image.
        test: number of test images.
        side: of the images in pixels, 16 to 1024.
        smallest: least length of the object's longer side, as a share of the image's side, above 0.
        largest: greatest length, at most 1.
        cue: probability that the background is of the part of the label in training images, 0 to 1.
        test_cue: the same for test images.
        seed: 0 to 2^64 - 1.

    Returns:
        both splits, each a `CompositeDataset`.

    Raises:
        InputError: an argument outside its range, a folder or class that is not there, a set without masks of objects.
    """
    check_seed(seed)
    for name, value, interval in (
        ("train", train, "[1, 10^6]"),
        ("test", test, "[1, 10^6]"),
        ("side", side, "[16, 1024]"),
        ("smallest", smallest, "(0, 1]"),
        ("largest", largest, f"[{smallest}, 1]"),
        ("cue", cue, "[0, 1]"),
        ("test_cue", test_cue, "[0, 1]"),
    ):
        check_interval(f"composites: {name}", value, interval)
    for name, where, example in (("foregrounds", foregrounds, "coco:FOLDER"), ("backgrounds", backgrounds, "FOLDER")):
        if not where:
            raise InputError(f"composites need {name}; give them (--data.options.{name} {example})")
    cut_outs = _cut_outs(foregrounds, classes, round(side * largest))
    photographs = _photographs(Path(backgrounds).expanduser(), side, len(cut_outs[0]))
    sides = round(side * smallest), round(side * largest)
    splits = []
    for i, (count, correlation) in enumerate(((train, cue), (test, test_cue))):
        stream = RandomStream(seed, 30 + i)
        splits.append(_make(list(cut_outs[i].values()), photographs[i], count, correlation, stream, side, sides))
    mean, std = channel_statistics(splits[0]["images"])
    shared: dict[str, Any] = {"classes": tuple(cut_outs[0]), "name": "composites", "mean": mean, "std": std}
    return Splits(*(CompositeDataset(**splits[i], split=split, **shared) for i, split in enumerate(("train", "test"))))


def _make(
    cut_outs: Sequence[Sequence[Image.Image]],
    photographs: Sequence[Sequence[Pixels]],
    count: int,
    cue: float,
    stream: RandomStream,
    size: int,
    sides: tuple[int, int],
) -> dict[str, Any]:
    """The images of a split, from the cut-outs and photographs of each class."""
    labels = stream.permutation(count) % len(cut_outs)
    agrees, other = stream.bernoulli(cue, count), stream.integers(0, len(cut_outs) - 1, count)
    groups = np.where(agrees, labels, other)
    objects = stream.integers(0, np.array([len(one) for one in cut_outs])[labels] - 1, count)
    behind = stream.integers(0, np.array([len(one) for one in photographs])[groups] - 1, count)
    side, mirrored = stream.integers(*sides, count), stream.bernoulli(0.5, (2, count))
    crops, places = stream.integers(*_CROPS, count), stream.integers(0, 2**16, (4, count))
    images, regions = np.empty((count, size, size, 3), np.uint8), np.zeros((count, size, size), np.bool_)
    for i in range(count):
        photograph = photographs[groups[i]][behind[i]]
        crop = max(1, min(photograph.shape[:2]) * int(crops[i]) // 100)
        background = Image.fromarray(photograph[_window(photograph.shape[:2], (crop, crop), places[:2, i])])
        pixels = np.asarray(background.resize((size, size), Image.Resampling.BILINEAR))
        images[i] = pixels[:, ::-1] if mirrored[0, i] else pixels
        pixels = _scaled(cut_outs[labels[i]][objects[i]], int(side[i]))
        pixels = pixels[:, ::-1] if mirrored[1, i] else pixels
        covered, window = pixels[:, :, 3] >= 128, _window((size, size), pixels.shape[:2], places[2:, i])
        images[i][window][covered] = pixels[covered, :3]
        regions[i][window] = covered
    return {
        "images": torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        "labels": torch.from_numpy(labels),
        "regions": torch.from_numpy(regions),
        "backgrounds": torch.from_numpy(groups),
    }


def _window(size: Sequence[int], part: Sequence[int], place: Integers) -> tuple[slice, ...]:
    """The rows and columns of a part of this height and width at a place, each from 0 to 2^16 - 1, in an image."""
    first = [(whole - length) * int(at) >> 16 for whole, length, at in zip(size, part, place, strict=True)]
    return tuple(slice(start, start + length) for start, length in zip(first, part, strict=True))


def _scaled(image: Image.Image, side: int) -> Pixels:
    """RGBA at another size, with this longer side; PIL weighs the colours with the opacity."""
    factor = side / max(image.size)
    size = tuple(max(1, round(length * factor)) for length in image.size)
    return np.asarray(image.resize((size[0], size[1]), Image.Resampling.BILINEAR))


def _cut_outs(
    where: str, classes: Sequence[str] | None, side: int
) -> tuple[dict[str, list[Image.Image]], dict[str, list[Image.Image]]]:
    """The cut-outs for training and for testing, by the name of their class."""
    from regard.data.sources import open_regions  # which registers this set

    test_set = open_regions(where)
    try:
        train_set = open_regions(where, split="train")
    except InputError:
        train_set = test_set
    if not test_set.has_object_masks:
        raise InputError(f"the images of {where} have no masks of single objects; give a set that has (coco, masks)")
    class_of = _class_of(test_set.classes, classes)
    train_order, test_order = (RandomStream(0, 32).permutation(len(images)) for images in (train_set, test_set))
    if train_set.split == test_set.split:
        train_order, test_order = train_order[train_order % EVERY > 0], test_order[test_order % EVERY == 0]
    train, test = _cut(train_set, train_order, class_of, side), _cut(test_set, test_order, class_of, side)
    names = [name for name in train if train[name] and test[name]]
    missing = [name for name in train if name not in names]
    if classes is not None and missing:
        raise InputError(f"{where} has no object of class {missing[0]!r} to train and to test on; leave the class out")
    if len(names) < 2:
        raise InputError(
            f"{where} has {len(names)} classes with objects to train and to test on; composites need two or more"
        )
    return {name: train[name] for name in names}, {name: test[name] for name in names}


def _class_of(known: Sequence[str], classes: Sequence[str] | None) -> dict[int, str]:
    """The class that objects of each label belong to; labels of no class are left out."""
    if classes is None:
        return dict(enumerate(known))
    class_of: dict[int, str] = {}
    for text in classes:
        name, _, parts = text.partition("=")
        for part in (parts or name).split("+"):
            if part not in known:
                raise unknown("class of the foregrounds", part, known)
            if known.index(part) in class_of:
                raise InputError(f"class {part!r} is named twice; name each class once")
            class_of[known.index(part)] = name
    return class_of


def _cut(images: ImageDataset, order: Integers, class_of: Mapping[int, str], side: int) -> dict[str, list[Image.Image]]:
    """Up to `MOST` cut-outs of each class, RGBA pixels of bounding boxes, from images in this order; none larger than
    need be."""
    cut: dict[str, list[Image.Image]] = {name: [] for name in class_of.values()}
    for i in order.tolist():
        wanted = {label for label, name in class_of.items() if len(cut[name]) < MOST}
        if not wanted:
            break
        try:
            objects = images.objects(i, masks=False)
            if objects is None or wanted.isdisjoint(objects.labels.tolist()):
                continue
            photograph, objects = images.image(i), images.objects(i)
        except Unreadable as error:
            raise InputError(f"{first_line(error)}; remove or replace the image") from None
        assert objects is not None and objects.masks is not None
        masks = objects.masks.numpy()
        boxes = boxes_of(masks).astype(np.int64).tolist()
        for label, crowd, mask, box in zip(objects.labels.tolist(), objects.crowd.tolist(), masks, boxes, strict=True):
            small = max(box[2] - box[0], box[3] - box[1]) < LEAST
            if label not in class_of or crowd or small or len(cut[class_of[label]]) >= MOST:
                continue
            pixels = photograph.crop(box)
            pixels.putalpha(Image.fromarray(mask).convert("L").crop(box))
            cut[class_of[label]].append(Image.fromarray(_scaled(pixels, side)) if max(pixels.size) > side else pixels)
    return cut


def _photographs(folder: Path, size: int, classes: int) -> tuple[list[list[Pixels]], list[list[Pixels]]]:
    """The photographs for training and for testing by class, with shorter sides of at most 1.5 `size`."""
    paths = Tree(existing_folder(folder, "expected a folder of photographs (--data.options.backgrounds)")).images()
    if len(paths) < 2 * EVERY * classes:
        raise InputError(
            f"{show(folder)} has {len(paths)} photographs ({', '.join(EXTENSIONS)}); composites of {classes} classes "
            f"need {2 * EVERY * classes} or more"
        )
    photographs = []
    for path in paths:
        try:
            image, _ = read_image(folder / path)
        except Unreadable as error:
            raise InputError(f"{first_line(error)}; remove or replace the photograph") from None
        longest = 1.5 * size * max(image.size) / min(image.size)
        photographs.append(np.asarray(image) if max(image.size) <= longest else _scaled(image, round(longest)))
    warmth = [float(one[:, :, 0].mean() - one[:, :, 2].mean()) for one in photographs]
    order = np.argsort(warmth, kind="stable")
    parts: list[Integers] = np.array_split(order, classes)
    return (
        [[photographs[i] for place, i in enumerate(part) if place % EVERY] for part in parts],
        [[photographs[i] for i in part[::EVERY]] for part in parts],
    )
