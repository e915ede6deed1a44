"""Reads data sets of image files into memory, as one tensor of images of the same size."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from regard import host
from regard.data.dataset import ImageDataset, InMemoryDataset, Splits, channel_statistics, check_mask
from regard.data.decode import OnUnreadable, Unreadable, grey_to_mask, mask_to_grey, quiet, square
from regard.data.file_dataset import FileDataset
from regard.data.listing import show
from regard.errors import InputError, check_number

MEMORY_LIMIT = 4 * 2**30

_IMAGES_PER_TASK = 64


def read_into_memory(
    dataset: ImageDataset,
    *,
    size: int | None = None,
    unreadable: OnUnreadable = "error",
    memory_limit: int = MEMORY_LIMIT,
) -> InMemoryDataset:
    """Reads all images of a data set into memory, with their masks if it has masks; an unknown mask becomes empty.

    The result has the mean and std of its images.

    Args:
        dataset: the data set.
        size: side of the images in pixels: the shorter side is resized to it (bilinear, antialiased), then the centre
            is cropped. Required if the images have different sizes.
        unreadable: on an image that cannot be read, raise an "error", or "skip" it and list it in `skipped`.
        memory_limit: maximum number of bytes for the images, 3 x height x width each; 4 GiB by default.

    Raises:
        InputError: an image cannot be read, or with "skip" no image of a class; the images have different sizes and
            `size` is None; or, checked before reading, they need more memory than `memory_limit` or the machine has.
    """
    check_reading(size, unreadable, memory_limit)
    with quiet():
        return _read(dataset, _size_in_memory(dataset, size, unreadable, memory_limit), size, unreadable)


def read_splits(
    train: ImageDataset, test: ImageDataset, *, size: int | None, unreadable: OnUnreadable, memory_limit: int
) -> Splits[InMemoryDataset]:
    """Reads both splits as `read_into_memory` does, each within the memory limit, with the mean and std of `train`.

    Raises InputError as `read_into_memory` does, and if the splits have images of different sizes; both are checked
    before any image is read.
    """
    with quiet():
        pixels, test_pixels = (_size_in_memory(images, size, unreadable, memory_limit) for images in (train, test))
        if pixels != test_pixels:
            raise InputError(
                f"images {_location(train)} have {_pixels(*pixels)} pixels, {_location(test)} {_pixels(*test_pixels)}; "
                f"give one size for all (--data.size {min(pixels)})"
            )
        in_memory, test_in_memory = (_read(images, pixels, size, unreadable) for images in (train, test))
    test_in_memory = replace(test_in_memory, split="test", mean=in_memory.mean, std=in_memory.std)
    return Splits(replace(in_memory, split="train"), test_in_memory)


def check_reading(size: int | None = None, unreadable: str = "error", memory_limit: int = MEMORY_LIMIT) -> None:
    """Raises InputError if the size or the memory limit is not a positive integer, or `unreadable` is unknown."""
    for name, value in (("size", size), ("memory_limit", memory_limit)):
        if value is not None:
            check_number(name, value, "[1, inf)", whole=True)
    if unreadable not in get_args(OnUnreadable):
        raise InputError(f"unreadable is {unreadable!r}; give 'error' or 'skip'")


def _read(
    dataset: ImageDataset, pixels: tuple[int, int], size: int | None, unreadable: OnUnreadable
) -> InMemoryDataset:
    """Reads all images, which have this width and height in memory, as `read_into_memory` does."""
    width, height = pixels
    images = np.empty((len(dataset), 3, height, width), dtype=np.uint8)
    regions = np.zeros((len(dataset), height, width), dtype=np.bool_) if dataset.has_masks else None
    failed = _read_images(images, regions, dataset, size, unreadable)
    labels = dataset.labels
    if failed:
        readable = torch.ones(len(labels), dtype=torch.bool)
        readable[list(failed)] = False
        for label in labels.unique().tolist():
            members = torch.nonzero(labels == label).flatten().tolist()
            if not readable[members].any():
                raise InputError(
                    f"not one of the {len(members)} images {_location(dataset, dataset.classes[label])} can be read "
                    f"(the first: {failed[members[0]]}); give readable ones, or leave the class out"
                )
        images, labels = images[readable.numpy()], labels[readable]
        regions = None if regions is None else regions[readable.numpy()]
    tensor, masks = torch.from_numpy(images), None if regions is None else torch.from_numpy(regions)
    mean, std = channel_statistics(tensor)
    skipped = tuple(_name(dataset, i) for i in sorted(failed))
    return InMemoryDataset(
        tensor, labels, dataset.classes, dataset.name, dataset.split, mean, std, regions=masks, skipped=skipped
    )


def _size_in_memory(
    dataset: ImageDataset, size: int | None, unreadable: OnUnreadable, memory_limit: int
) -> tuple[int, int]:
    """The width and height of images in memory, from `size` or the first readable image. Raises InputError if the
    images do not fit in memory."""
    width, height = _first_size(dataset, unreadable) if size is None else (size, size)
    count, machine, planes = len(dataset), host.total_memory(), 4 if dataset.has_masks else 3
    needed, limit = count * planes * height * width, min(memory_limit, machine)
    if needed > limit:
        max_size = int((min(memory_limit, machine // 2) / (planes * count)) ** 0.5)  # leaves memory to other programs
        larger = ", or a larger limit (--data.options.memory_limit, in bytes)" if needed <= machine else ""
        raise InputError(
            f"the {count} images {_location(dataset)} would take {gib(needed)} of memory at {_pixels(width, height)} "
            f"pixels, and {'the limit is' if needed > memory_limit else 'this machine has'} {gib(limit)}; give a "
            f"smaller size (--data.size{f', at most {max_size}' if max_size else ''}), fewer images{larger}"
        )
    return width, height


def _first_size(dataset: ImageDataset, unreadable: OnUnreadable) -> tuple[int, int]:
    """(width, height) of the first readable image."""
    first_error: Unreadable | None = None
    for i in range(len(dataset)):
        try:
            return dataset.image(i).size
        except Unreadable as error:
            first_error = first_error or _skippable(error, unreadable)
    raise InputError(
        f"not one of the {len(dataset)} images {_location(dataset)} can be read (the first: {first_error}); give "
        "readable ones"
    )


def _read_images(
    images: NDArray[np.uint8],
    regions: NDArray[np.bool_] | None,
    dataset: ImageDataset,
    size: int | None,
    unreadable: OnUnreadable,
) -> dict[int, Unreadable]:
    """Fills `images` (N, 3, H, W) and `regions`. Returns the error for each skipped image, by index."""
    height, width = images.shape[2:]

    def read(start: int) -> dict[int, Unreadable]:
        failed = {}
        for i in range(start, min(start + _IMAGES_PER_TASK, len(dataset))):
            try:
                image = dataset.image(i) if size is None else dataset.square(i, size)
                mask = None if regions is None else dataset.mask(i)
            except Unreadable as error:
                failed[i] = _skippable(error, unreadable)
                continue
            if image.size != (width, height):
                raise InputError(
                    f"images of different sizes: {_name(dataset, i)!r} has {_pixels(*image.size)} pixels, the first "
                    f"{_pixels(width, height)}; give one size for all (--data.size {min(width, height)})"
                )
            images[i] = np.asarray(image).transpose(2, 0, 1)
            if regions is not None and mask is not None:
                check_mask(mask, _name(dataset, i))
                if size is not None:
                    mask = grey_to_mask(square(mask_to_grey(mask), size))
                if mask.shape != regions.shape[1:]:
                    raise InputError(
                        f"the mask of {_name(dataset, i)!r} has {_pixels(*reversed(mask.shape))} pixels, the image "
                        f"{_pixels(width, height)}; give one of its size"
                    )
                regions[i] = mask
        return failed

    failed: dict[int, Unreadable] = {}
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        # Results are collected in order, so that the first of several errors is raised.
        for task_failed in pool.map(read, range(0, len(dataset), _IMAGES_PER_TASK)):
            failed |= task_failed
    finally:
        pool.shutdown(cancel_futures=True)
    return failed


def _skippable(error: Unreadable, unreadable: OnUnreadable) -> Unreadable:
    if unreadable == "error":
        raise InputError(
            f"{error}; remove or replace it, or have such files skipped (--data.unreadable skip)"
        ) from error
    return error


def _location(dataset: ImageDataset, class_name: str = "") -> str:
    if isinstance(dataset, FileDataset):
        return f"in {show(dataset.folder / class_name)}"
    return f"of {dataset.name!r}" + (f", class {class_name!r}," if class_name else "")


def _name(dataset: ImageDataset, index: int) -> str:
    return str(dataset.path(index)) if isinstance(dataset, FileDataset) else dataset.keys[index]


def gib(count: int) -> str:
    """A number of bytes in GiB, for messages."""
    return f"{count / 2**30:.2g} GiB" if count < 100 * 2**30 else f"{count / 2**30:.0f} GiB"


def _pixels(width: int, height: int) -> str:
    return f"{width} x {height}"
