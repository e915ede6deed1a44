"""Image files held whole: one set of bytes, all of one size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from regard import host
from regard.data.dataset import InMemoryDataset, Splits, channel_statistics
from regard.data.decode import OnUnreadable, Unreadable, frame_of, read_image, read_square, square
from regard.data.listing import Listing, show
from regard.errors import InputError, first_line

MEMORY_LIMIT = 4 * 2**30

_FILES_A_TASK = 64


def check_choices(size: int | None, unreadable: str, memory_limit: int) -> None:
    """Raises InputError for a size or a limit that is none, or another word for `unreadable`."""
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise InputError(f"size is {size!r}; give the side of the images in pixels, 1 or more")
    if unreadable not in get_args(OnUnreadable):
        raise InputError(f"unreadable is {unreadable!r}; give 'error' or 'skip'")
    if isinstance(memory_limit, bool) or not isinstance(memory_limit, int) or memory_limit < 1:
        raise InputError(f"memory_limit is {memory_limit!r}; give a whole number of bytes, such as {MEMORY_LIMIT}")


def read_splits(
    name: str, listings: Sequence[Listing], size: int | None, unreadable: OnUnreadable, memory_limit: int
) -> Splits:
    """The images for training and those for testing; both carry mean and std of the first.

    Args:
        name: of the set.
        listings: the two.
        size: see `read_folder`.
        unreadable: likewise.
        memory_limit: likewise, for each of the two.

    Raises:
        InputError: see `read_folder`; or the two are of different sizes.
    """
    first, second = listings
    sizes = [pixels_of(listing, size, unreadable, memory_limit) for listing in listings]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"images in {show(first.folder)} have {_by(*sizes[0])} pixels, in {show(second.folder)} "
            f"{_by(*sizes[1])}; give one size for all (--data.size {min(sizes[0])})"
        )
    train = read_listing(name, first, "train", sizes[0], size, unreadable)
    test = read_listing(name, second, "test", sizes[1], size, unreadable)
    return Splits(train, replace(test, mean=train.mean, std=train.std))


def pixels_of(listing: Listing, size: int | None, unreadable: OnUnreadable, memory_limit: int) -> tuple[int, int]:
    """(width, height) of the images to be, if they fit in memory: as asked for, or of the first that can be opened."""
    width, height = _first_size(listing, unreadable) if size is None else (size, size)
    count = len(listing.files)
    needed = count * 3 * height * width
    machine = host.total_memory()
    if needed > min(memory_limit, machine):
        limited = needed > memory_limit
        fitting = int((min(memory_limit, machine // 2) / (3 * count)) ** 0.5)  # something else wants memory, too
        ways = [
            f"a smaller size (--data.size{f', at most {fitting}' if fitting else ''})",
            "a folder of fewer images",
            *(["a larger limit (--data.options.memory_limit, in bytes)"] if limited and needed <= machine else []),
        ]
        raise InputError(
            f"the {count} images in {show(listing.folder)} would take {gib(needed)} of memory at {_by(width, height)} "
            f"pixels, for sets are held whole, and {'the limit is' if limited else 'this machine has'} "
            f"{gib(memory_limit if limited else machine)}; give {', '.join(ways[:-1])} or {ways[-1]}"
        )
    return width, height


def read_listing(
    name: str, listing: Listing, split: str, pixels: tuple[int, int], size: int | None, unreadable: OnUnreadable
) -> InMemoryDataset:
    """The images, all of them (width, height) `pixels` large, in one set."""
    width, height = pixels
    try:
        images = np.empty((len(listing.files), 3, height, width), dtype=np.uint8)
    except MemoryError as error:
        raise InputError(
            f"there is no memory left for the {len(listing.files)} images in {show(listing.folder)} at "
            f"{_by(width, height)} pixels ({first_line(error)}); give a smaller size (--data.size)"
        ) from error
    labels = listing.labels
    failed = _fill(images, listing, size, unreadable)
    if failed:
        readable = np.ones(len(labels), dtype=np.bool_)
        readable[list(failed)] = False
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            if not readable[members].any():
                raise InputError(
                    f"not one of the {len(members)} images in {show(listing.folder / listing.classes[label])} can be "
                    f"read (the first: {failed[members[0]]}); give readable ones, or leave the class out"
                )
        images, labels = images[readable], labels[readable]
    tensor = torch.from_numpy(images)
    mean, std = channel_statistics(tensor)
    skipped = tuple(str(listing.files[i]) for i in sorted(failed))
    return InMemoryDataset(tensor, torch.from_numpy(labels), listing.classes, name, split, mean, std, skipped=skipped)


def gib(count: int) -> str:
    """So many bytes in words."""
    return f"{count / 2**30:.2g} GiB" if count < 100 * 2**30 else f"{count / 2**30:.0f} GiB"


def _first_size(listing: Listing, unreadable: OnUnreadable) -> tuple[int, int]:
    first: Unreadable | None = None
    for file in listing.files:
        try:
            return frame_of(file).upright
        except Unreadable as error:
            if unreadable == "error":
                raise _fatal(error) from error
            first = first or error
    raise InputError(
        f"not one of the {len(listing.files)} images in {show(listing.folder)} can be read (the first: {first}); "
        "give readable ones"
    )


def _fill(
    images: NDArray[np.uint8], listing: Listing, size: int | None, unreadable: OnUnreadable
) -> dict[int, Unreadable]:
    """Read every file into its place (3, H, W). Returns, by place, what is wrong with those that are to be skipped."""
    height, width = images.shape[2:]
    files = listing.files

    def read(start: int) -> dict[int, Unreadable]:
        failed = {}
        for i in range(start, min(start + _FILES_A_TASK, len(files))):
            box = None if listing.boxes is None else listing.boxes[i].tolist()
            try:
                if size is not None and box is None:
                    image = read_square(files[i], size)
                else:
                    image = read_image(files[i], box=box)[0]
                    image = image if size is None else square(image, size)
            except Unreadable as error:
                if unreadable == "error":
                    raise _fatal(error) from error
                failed[i] = error
                continue
            pixels = np.asarray(image)
            if pixels.shape[:2] != (height, width):
                raise InputError(
                    f"images of different sizes: {show(files[i])} has {_by(pixels.shape[1], pixels.shape[0])} pixels, "
                    f"the first {_by(width, height)}; give one size for all (--data.size {min(width, height)})"
                )
            images[i] = pixels.transpose(2, 0, 1)
        return failed

    failed: dict[int, Unreadable] = {}
    pool = ThreadPoolExecutor(_workers(files))
    try:
        # Taken in order, so that of several faults the first is named, whoever was fastest.
        for part in pool.map(read, range(0, len(files), _FILES_A_TASK)):
            failed |= part
    finally:
        pool.shutdown(cancel_futures=True)
    return failed


def _workers(files: list[Path]) -> int:
    """Threads to read with: more than one only hinder where images are small, and take the interpreter's time most."""
    sample = files[:: 1 + len(files) // 32]
    mean = sum(os.path.getsize(file) for file in sample if os.path.exists(file)) / len(sample)
    return 1 if mean < 4096 else min(8, os.cpu_count() or 1)


def _fatal(error: Unreadable) -> InputError:
    return InputError(f"{error}; remove or replace it, or have such files skipped (--data.unreadable skip)")


def _by(width: int, height: int) -> str:
    return f"{width} x {height}"
