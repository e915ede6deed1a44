"""Opens data sets by name, for training and evaluation."""

from __future__ import annotations

import inspect
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from regard.data import builtin, composites, huggingface, published, regions, wds  # imported to register their formats
from regard.data.dataset import ImageDataset, Splits
from regard.data.decode import OnUnreadable
from regard.data.in_memory import MEMORY_LIMIT, check_reading, read_splits
from regard.data.listing import existing_folder, show
from regard.data.registry import FIELDS, SOURCES, Source
from regard.data.streamed_loader import with_objects
from regard.errors import DataWarning, InputError, check_number, unknown

_ = builtin, composites, huggingface, published, regions, wds


def names() -> list[str]:
    """The names of all data sets that `load` can load, sorted."""
    return sorted(SOURCES)


def is_streamed(name: str) -> bool:
    """Whether the images of a data set are streamed; else they are in memory. Raises InputError for an unknown name."""
    return _source(name).streamed


def all_options(name: str, /, **options: Any) -> dict[str, Any]:
    """All options of a data set, given or default. Runs record them, because defaults may change. Raises InputError
    for an unknown name or option, or a value of the wrong type."""
    return _source(name).all_options(options)


def load(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    size: int | None = None,
    unreadable: OnUnreadable = "error",
    objects: bool = False,
    **options: Any,
) -> Splits:
    """Loads a data set into memory, or opens a streamed data set. Returns the training and the test split.

    The mean and std are ImageNet's if the data set does not define them.

    Args:
        name: name of the data set. In memory: "clutter" and "composites", which are generated; "cifar10", "cifar100"
            and "stl10", through torchvision; "cub", CUB-200-2011; "scenes", MIT Indoor Scenes; and "folder", images in
            class folders.
            Streamed: "files", images in class folders, such as ImageNet; "wds", WebDataset shards; "hfds", data sets of
            Hugging Face; the other data sets of `open_regions`, such as "voc", and registered data sets (see
            `register`), without their unlabelled images.
        folder: folder of the files: the parent of `train/` and `test/` (or `val/`, …), or the root of torchvision's
            data sets, by default `regard` in the user's cache folder. None for "clutter" and "composites".
        download: download "cifar10", "cifar100", "stl10" or "hfds" if the files are missing.
        size: side in pixels of images that are read from files into memory; required for "cub" and "scenes".
        unreadable: on an image that cannot be read into memory, raise an "error" or "skip" the image.
        objects: load the data set for detection. It then includes test images without objects, because a detector can
            make errors on them.
        options: options of the data set; for data sets read into memory also `memory_limit`, the maximum number of
            bytes per split.

    Raises:
        InputError: an unknown name or option, a missing or incomplete folder, or a data set without objects for
            detection.
    """
    source = _source(name)
    options = source.all_options(options)
    memory_limit = options.pop("memory_limit", MEMORY_LIMIT)
    check_reading(size, unreadable, memory_limit)
    if size is not None and not source.takes_size:
        raise InputError(f"data set {name!r} has images of one size; leave size out (found {size})")
    if source.load is None:
        splits = _open_splits(source, folder, options, objects)
    else:
        splits = _load_splits(source, folder, options, {"download": download, "unreadable": unreadable})
    if source.resized:
        splits = read_splits(*splits, size=size, unreadable=unreadable, memory_limit=memory_limit)
    for images in splits:
        if objects:
            with_objects(images)
        if images.mean is None:
            from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

            images.mean, images.std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return splits


def open_regions(
    where: str | os.PathLike[str], *, split: str | None = None, limit: int | None = None, **options: Any
) -> ImageDataset:
    """Opens a data set of image files with regions. All files must exist, but only the annotations are read.

    `docs/how-to/regions.md` describes the expected files of each kind.

    Args:
        where: "KIND:PATH", where KIND is "coco", "cub", "folder", "imagenet", "masks", "pets", "scenes", "stl10", "voc"
            or a registered name (see `register`); or only a path, if the kind can be recognised from the files.
        split: name of the split; None for the held-out split, if there is one.
        limit: maximum number of images, which are evenly spaced in the data set.
        options: options of the kind; None for an option's default. `images`, for "coco", "imagenet", "masks" and
            "stl10": the folder of the images, if it differs from the usual layout. `region`: for "coco" and "voc",
            "all" objects of an image or only the objects of its "label"; for "cub", the "segmentation" or the "box".
            `boundary`, for "pets" and "voc": whether border pixels are "inside" or "outside" the region.

    Returns:
        the images in the order of the annotations or of the image paths.

    Raises:
        InputError: the path does not exist, the kind or an option is unknown, or files are missing or malformed.
    """
    if limit is not None:
        check_number("limit", limit, "[1, inf)", whole=True)
    source, path = _parse(os.fspath(where))
    options = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in options.items()
        if value is not None
    }
    source.all_options(options, opening=True)
    images = _open(source, path, split, options)
    if limit is None or limit >= len(images):
        return images
    return images.subset((2 * np.arange(limit) + 1) * len(images) // (2 * limit))


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise unknown("data set", name, SOURCES)
    return SOURCES[name]


def _require_folder(source: Source, folder: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    if folder is None:
        layout = f" ({source.layout.removeprefix('expected ')})" if source.layout else ""
        raise InputError(f"data set {source.name!r} needs a folder{layout}; give one (--data.folder)")
    return folder


def _open(source: Source, path: Path, split: str | None, options: dict[str, Any]) -> ImageDataset:
    assert source.open is not None
    if not (source.one_file and path.is_file()):
        existing_folder(path, source.layout)
    return source.open(path, split=split, **options)


def _load_splits(
    source: Source, folder: str | os.PathLike[str] | None, options: dict[str, Any], fields: dict[str, Any]
) -> Splits:
    """Calls the `load` of a data set with its options, and with the fields that it has as parameters."""
    assert source.load is not None
    parameters = inspect.signature(source.load).parameters
    options = options | {field: fields[field] for field in FIELDS if field in parameters}
    if "path" in parameters:
        options["path"] = folder if parameters["path"].default is None else _require_folder(source, folder)
    elif folder is not None:
        raise InputError(
            f"data set {source.name!r} is generated, not read from a folder (found {str(folder)!r}); leave the folder "
            "out, or name its kind of data (--data.name folder, files, coco, …)"
        )
    splits = source.load(**options)
    return Splits(*(images if isinstance(images, wds.WebDataset) else _labelled_subset(images) for images in splits))


def _open_splits(
    source: Source, folder: str | os.PathLike[str] | None, options: dict[str, Any], objects: bool
) -> Splits:
    """Opens the training and the held-out split of a data set separately."""
    path = Path(_require_folder(source, folder)).expanduser()
    test = _open(source, path, None, options)
    if not test.split or (source.one_file and path.is_file()):
        train, test = _hold_out(test)
    else:
        train = _open(source, path, "train", options)
    if test.split == train.split:
        raise InputError(f"data set {source.name!r} has no split in {show(path)} to test on; add one")
    if objects:
        return Splits(_labelled_subset(with_objects(train), "objects"), test)
    return Splits(_labelled_subset(train), _labelled_subset(test))


def _hold_out(images: ImageDataset) -> tuple[ImageDataset, ImageDataset]:
    """Splits a data set into training and test images; every fifth is a test image."""
    count = len(images)
    if count < 2:
        raise InputError(f"data set {images.name!r} has one image; give two or more, as every fifth is to test on")
    is_test = np.arange(count) % 5 == min(4, count - 1)
    train, test = (images.subset(np.flatnonzero(members)) for members in (~is_test, is_test))
    train.split, test.split = "train", "test"
    message = f"data set {images.name!r} has no splits: {len(test)} of its {count} images are held out to test on"
    warnings.warn(message, DataWarning, stacklevel=2)
    return train, test


def _labelled_subset(images: ImageDataset, kind: str = "labels") -> ImageDataset:
    labelled = (images.labels >= 0).nonzero().flatten()
    unlabelled = len(images) - len(labelled)
    if not len(labelled):
        remedies = {
            "masks": "; put the images of each class into images/CLASS/",
            "hfds": f"; name another split (--data.options.{images.split})",
        }
        raise InputError(
            f"no image of split {images.split!r} of {images.name!r} has {kind} to learn from"
            f"{remedies.get(images.name, '')}"
        )
    if unlabelled:
        message = f"{unlabelled} of the {len(images)} images of split {images.split!r} of {images.name!r}"
        warnings.warn(f"{message} have no {kind}: left out", DataWarning, stacklevel=2)
    return images.subset(labelled) if unlabelled else images


def _parse(where: str) -> tuple[Source, Path]:
    """The data set and the path in "KIND:PATH", or in a path whose kind is recognised from its files."""
    kinds = {name: source for name, source in SOURCES.items() if source.open is not None}
    name, colon, rest = where.partition(":")
    if colon and name in kinds:
        if not rest:
            raise InputError(f"no path after {where!r}; {kinds[name].layout}")
        return kinds[name], Path(rest).expanduser()
    path = Path(where).expanduser()
    # A colon may belong to the path; after a single letter it marks a drive.
    if colon and re.fullmatch(r"[a-z0-9_-]{2,}", name) and not path.exists():
        if name in SOURCES:
            raise InputError(
                f"{name} cannot be the KIND of KIND:PATH; give --data.name {name} --data.folder {rest or 'FOLDER'}"
            )
        raise unknown("kind of data", name, kinds)
    if not path.exists():
        raise InputError(f"no file or folder {show(path)}; give KIND:PATH, with KIND one of {', '.join(sorted(kinds))}")
    for source in kinds.values():
        if source.recognised(path):
            return source, path
    raise InputError(
        f"{show(path)} is not a known kind of data: no annotations/instances_….json or .json file (coco), "
        "image_class_labels.txt (cub), annotations/trimaps/ (pets), ImageSets/Segmentation/ (voc), stl10_….json "
        "(stl10), Annotations/CLS-LOC/ (imagenet), masks/ (masks), or folders of images (folder)"
    )
