"""The data set `composites`: objects cut out of photographs by their masks and pasted on other photographs.

It generalises Waterbirds (Sagawa et al. 2020, "Distributionally Robust Neural Networks for Group Shifts", arXiv
1911.08731): each class is correlated with certain backgrounds, by a given probability.
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
from regard.data.objects import mask_boxes
from regard.data.random import Integers, RandomStream, check_seed
from regard.data.registry import register_splits
from regard.errors import InputError, check_interval, first_line, unknown

Pixels = NDArray[np.uint8]

_MAX_CUT_OUTS = 500  # per class and split
_MIN_SIDE = 16  # of an object's box, in pixels along its longer side
_TEST_EVERY = 5  # every fifth background is for testing, and without a training split every fifth image with objects
_CROPS = (60, 100)  # side of a background's crop in percent of the shorter side, smallest and largest


@dataclass(frozen=True, eq=False)
class CompositeDataset(InMemoryDataset):
    """Composites with the classes of their backgrounds.

    It adds this attribute to those of `InMemoryDataset`.

    Attributes:
        backgrounds: int64 (N,), the class that the background of each image belongs to.
    """

    backgrounds: Tensor = field(kw_only=True)

    @property
    def groups(self) -> tuple[str, ...]:
        """The class of each image and the class of its background, such as "dog on cat"."""
        pairs = zip(self.labels.tolist(), self.backgrounds.tolist(), strict=True)
        return tuple(f"{self.classes[label]} on {self.classes[background]}" for label, background in pairs)

    @property
    def agrees(self) -> Tensor:
        """Whether the background belongs to the class of the image, bool (N,)."""
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
    """Generates composites: each image shows one object, cut out by its mask, on a crop of a photograph.

    The photographs are sorted by mean red minus mean blue, from sky and water to earth and lamp light, and divided
    into parts of equal size, one for each class. With probability `cue` an image has a background from the part of its
    label, and otherwise from a part drawn uniformly from all. So, as in `clutter`, the two agree with probability
    cue + (1 - cue) / classes. Objects, their sizes and their positions do not depend on the cue.

    Test images have different photographs, every fifth of each part, and different objects, from the held-out split of
    the foregrounds, or from every fifth image if there is only one split.

    A pixel belongs completely to the object if the mask covers at least half of it. So edges are not smoothed, the
    region is exact, and colours from around the object are not included.

    Args:
        foregrounds: a data set with masks of single objects, "KIND:FOLDER" as in `open_regions`, such as coco or masks
            (with instances). Objects are left out if they are a group in one annotation (COCO's crowds), or if their
            box is smaller than 16 pixels in both directions.
        backgrounds: a folder of photographs.
        classes: names of classes of the foregrounds, or several merged into one, "animal=dog+bird"; None for all that
            have objects for training and for testing.
        train: number of training images; classes are balanced to within one image.
        test: number of test images.
        side: side of the images in pixels, 16 to 1024.
        smallest: smallest longer side of an object as a fraction of the image's side, above 0.
        largest: largest longer side of an object, at most 1.
        cue: probability that a training image has a background from the part of its label, 0 to 1.
        test_cue: the same for test images.
        seed: 0 to 2^64 - 1.

    Returns:
        both splits, each a `CompositeDataset`.

    Raises:
        InputError: an argument is outside its range, a folder or class does not exist, or the foregrounds have no
            masks of objects.
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
    for name, path, example in (("foregrounds", foregrounds, "coco:FOLDER"), ("backgrounds", backgrounds, "FOLDER")):
        if not path:
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
    agrees, random_class = stream.bernoulli(cue, count), stream.integers(0, len(cut_outs) - 1, count)
    background_class = np.where(agrees, labels, random_class)
    objects = stream.integers(0, np.array([len(members) for members in cut_outs])[labels] - 1, count)
    backgrounds = stream.integers(0, np.array([len(members) for members in photographs])[background_class] - 1, count)
    side, mirrored = stream.integers(*sides, count), stream.bernoulli(0.5, (2, count))
    crops, positions = stream.integers(*_CROPS, count), stream.integers(0, 2**16, (4, count))
    images, regions = np.empty((count, size, size, 3), np.uint8), np.zeros((count, size, size), np.bool_)
    for i in range(count):
        photograph = photographs[background_class[i]][backgrounds[i]]
        crop = max(1, min(photograph.shape[:2]) * int(crops[i]) // 100)
        background = Image.fromarray(photograph[_window(photograph.shape[:2], (crop, crop), positions[:2, i])])
        pixels = np.asarray(background.resize((size, size), Image.Resampling.BILINEAR))
        images[i] = pixels[:, ::-1] if mirrored[0, i] else pixels
        pixels = _scaled(cut_outs[labels[i]][objects[i]], int(side[i]))
        pixels = pixels[:, ::-1] if mirrored[1, i] else pixels
        covered, window = pixels[:, :, 3] >= 128, _window((size, size), pixels.shape[:2], positions[2:, i])
        images[i][window][covered] = pixels[covered, :3]
        regions[i][window] = covered
    return {
        "images": torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        "labels": torch.from_numpy(labels),
        "regions": torch.from_numpy(regions),
        "backgrounds": torch.from_numpy(background_class),
    }


def _window(image_size: Sequence[int], size: Sequence[int], position: Integers) -> tuple[slice, ...]:
    """The rows and columns of a window (height, width) in an image; its relative position is from 0 to 2^16 - 1."""
    free = [side - length for side, length in zip(image_size, size, strict=True)]
    starts = [space * int(part) >> 16 for space, part in zip(free, position, strict=True)]
    return tuple(slice(start, start + length) for start, length in zip(starts, size, strict=True))


def _scaled(image: Image.Image, side: int) -> Pixels:
    """An image resized to this longer side; PIL weights the colours of RGBA by their opacity."""
    factor = side / max(image.size)
    size = tuple(max(1, round(length * factor)) for length in image.size)
    return np.asarray(image.resize((size[0], size[1]), Image.Resampling.BILINEAR))


def _cut_outs(
    foregrounds: str, classes: Sequence[str] | None, side: int
) -> tuple[dict[str, list[Image.Image]], dict[str, list[Image.Image]]]:
    """The cut-outs for training and for testing, by class name."""
    from regard.data.sources import open_regions  # imports this module

    test_set = open_regions(foregrounds)
    try:
        train_set = open_regions(foregrounds, split="train")
    except InputError:
        train_set = test_set
    if not test_set.has_object_masks:
        raise InputError(
            f"the images of {foregrounds} have no masks of single objects; give a data set that has (coco, masks)"
        )
    class_of = _class_of(test_set.classes, classes)
    train_order, test_order = (RandomStream(0, 32).permutation(len(images)) for images in (train_set, test_set))
    if train_set.split == test_set.split:
        train_order, test_order = train_order[train_order % _TEST_EVERY > 0], test_order[test_order % _TEST_EVERY == 0]
    train, test = _cut(train_set, train_order, class_of, side), _cut(test_set, test_order, class_of, side)
    names = [name for name in train if train[name] and test[name]]
    missing = [name for name in train if name not in names]
    if classes is not None and missing:
        raise InputError(
            f"{foregrounds} has no objects of class {missing[0]!r} to train and to test on; leave the class out"
        )
    if len(names) < 2:
        raise InputError(
            f"{foregrounds} has {len(names)} classes with objects to train and to test on; composites need two or more"
        )
    return {name: train[name] for name in names}, {name: test[name] for name in names}


def _class_of(foreground_classes: Sequence[str], classes: Sequence[str] | None) -> dict[int, str]:
    """The class name for each used label of the foregrounds."""
    if classes is None:
        return dict(enumerate(foreground_classes))
    class_of: dict[int, str] = {}
    for text in classes:
        name, _, members = text.partition("=")
        for member in (members or name).split("+"):
            if member not in foreground_classes:
                raise unknown("class of the foregrounds", member, foreground_classes)
            label = foreground_classes.index(member)
            if label in class_of:
                raise InputError(f"class {member!r} is named twice; name each class once")
            class_of[label] = name
    return class_of


def _cut(images: ImageDataset, order: Integers, class_of: Mapping[int, str], side: int) -> dict[str, list[Image.Image]]:
    """Up to `_MAX_CUT_OUTS` cut-outs of each class, RGBA images of bounding boxes, from images in this order. Larger
    cut-outs are reduced to the longer side `side`."""
    cut_outs: dict[str, list[Image.Image]] = {name: [] for name in class_of.values()}
    for i in order.tolist():
        open_labels = {label for label, name in class_of.items() if len(cut_outs[name]) < _MAX_CUT_OUTS}
        if not open_labels:
            break
        try:
            objects = images.objects(i, masks=False)
            if objects is None or open_labels.isdisjoint(objects.labels.tolist()):
                continue
            photograph, objects = images.image(i), images.objects(i)
        except Unreadable as error:
            raise InputError(f"{first_line(error)}; remove or replace the image") from None
        assert objects is not None and objects.masks is not None
        masks = objects.masks.numpy()
        boxes = mask_boxes(masks).astype(np.int64).tolist()
        for label, crowd, mask, box in zip(objects.labels.tolist(), objects.crowd.tolist(), masks, boxes, strict=True):
            is_small = max(box[2] - box[0], box[3] - box[1]) < _MIN_SIDE
            if label not in class_of or crowd or is_small or len(cut_outs[class_of[label]]) >= _MAX_CUT_OUTS:
                continue
            cut_out = photograph.crop(box)
            cut_out.putalpha(Image.fromarray(mask).convert("L").crop(box))
            cut_out = Image.fromarray(_scaled(cut_out, side)) if max(cut_out.size) > side else cut_out
            cut_outs[class_of[label]].append(cut_out)
    return cut_outs


def _photographs(folder: Path, size: int, classes: int) -> tuple[list[list[Pixels]], list[list[Pixels]]]:
    """The photographs for training and for testing by class, with shorter sides of at most 1.5 * `size`."""
    paths = Tree(existing_folder(folder, "expected a folder of photographs (--data.options.backgrounds)")).images()
    if len(paths) < 2 * _TEST_EVERY * classes:
        raise InputError(
            f"{show(folder)} has {len(paths)} photographs ({', '.join(EXTENSIONS)}); composites of {classes} classes "
            f"need {2 * _TEST_EVERY * classes} or more"
        )
    photographs = []
    for path in paths:
        try:
            image, _ = read_image(folder / path)
        except Unreadable as error:
            raise InputError(f"{first_line(error)}; remove or replace the photograph") from None
        max_side = 1.5 * size * max(image.size) / min(image.size)
        photographs.append(np.asarray(image) if max(image.size) <= max_side else _scaled(image, round(max_side)))
    warmth = [float(pixels[:, :, 0].mean() - pixels[:, :, 2].mean()) for pixels in photographs]
    parts: list[Integers] = np.array_split(np.argsort(warmth, kind="stable"), classes)
    return (
        [[photographs[i] for rank, i in enumerate(part) if rank % _TEST_EVERY] for part in parts],
        [[photographs[i] for i in part[::_TEST_EVERY]] for part in parts],
    )
