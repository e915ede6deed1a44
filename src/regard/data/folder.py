"""Sets from folders of class folders."""

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

from regard.data.decode import OnUnreadable, Unreadable, decode, quiet, size_of
from regard.data.imageset import ImageSet, Splits, channel_statistics
from regard.data.listing import Listing, list_folder, list_splits, show
from regard.errors import InputError

MEMORY_LIMIT = 4 * 2**30

_FILES_A_TASK = 64


def load_folder(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    unreadable: OnUnreadable = "error",
    memory_limit: int = MEMORY_LIMIT,
) -> Splits:
    """Read `train/` and `test/` (or `val/`, `valid/`, `validation/`: the first that is there) of class folders.

    Both must have the same class folders; mean and std are those of the training images. For the rest see
    `read_folder`; the memory limit holds for each of the two.
    """
    _check(size, unreadable)
    with quiet():
        listings = list_splits(path)
        sizes = [_size(listing, size, unreadable, memory_limit) for listing in listings]
        if sizes[0] != sizes[1]:
            raise InputError(
                f"images in {show(listings[0].folder)} have {_by(*sizes[0])} pixels, in {show(listings[1].folder)} "
                f"{_by(*sizes[1])}; give one size for all (--data.size {min(sizes[0])})"
            )
        train = _read(listings[0], "train", sizes[0], size, unreadable)
        test = _read(listings[1], "test", sizes[1], size, unreadable)
    return Splits(train, replace(test, mean=train.mean, std=train.std))


def read_folder(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    unreadable: OnUnreadable = "error",
    classes: Sequence[str] | None = None,
    split: str = "train",
    memory_limit: int = MEMORY_LIMIT,
) -> ImageSet:
    """Read a folder of class folders: one set, in order of class and then of path.

    Images are the JPEG, PNG and WebP files (.jpg, .jpeg, .png, .webp, in any case) in a class folder and the folders
    in it; other files, and hidden ones, are passed over. Images of every kind become RGB: they are turned upright as
    their EXIF orientation says, of an animation the first picture counts, 16 bits become 8, transparency is dropped.

    Args:
        path: the folder.
        size: make the images size x size pixels: shorter side resized to it (bilinear, antialiased), then the centre.
            Needed if they are of different sizes.
        unreadable: on a file that cannot be read, "error", or "skip" it and list it in the set's `skipped`.
        classes: the names that the class folders must have, in the order of the labels; None for those that are there,
            sorted.
        split: what the set is for, "train" or "test".
        memory_limit: the most bytes that the images may take: 3 x height x width each. 4 GiB unless said.

    Returns:
        a set whose mean and std are its own.

    Raises:
        InputError: nothing there, no class folders, a class without (readable) images, an unreadable file, images of
            different sizes and no `size`, or more bytes than `memory_limit`. It says so before the images are read,
            where that can be known.
    """
    _check(size, unreadable)
    with quiet():
        listing = list_folder(path, classes)
        return _read(listing, split, _size(listing, size, unreadable, memory_limit), size, unreadable)


def _check(size: int | None, unreadable: str) -> None:
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise InputError(f"size is {size!r}; give the side of the images in pixels, 1 or more")
    if unreadable not in get_args(OnUnreadable):
        raise InputError(f"unreadable is {unreadable!r}; give 'error' or 'skip'")


def _size(listing: Listing, size: int | None, unreadable: OnUnreadable, memory_limit: int) -> tuple[int, int]:
    """(width, height) of the images to be, if they fit in memory: as asked for, or of the first that can be opened."""
    width, height = _first_size(listing, unreadable) if size is None else (size, size)
    needed = len(listing.files) * 3 * height * width
    if needed > memory_limit:
        raise InputError(
            f"the {len(listing.files)} images in {show(listing.folder)} would take {_gib(needed)} of memory at "
            f"{_by(width, height)} pixels, and the limit is {_gib(memory_limit)}; give a smaller size (--data.size), "
            "fewer images, or a larger memory_limit"
        )
    return width, height


def _first_size(listing: Listing, unreadable: OnUnreadable) -> tuple[int, int]:
    first: Unreadable | None = None
    for file in listing.files:
        try:
            return size_of(file)
        except Unreadable as error:
            if unreadable == "error":
                raise _fatal(error) from error
            first = first or error
    raise InputError(
        f"not one of the {len(listing.files)} images in {show(listing.folder)} can be read (the first: {first}); "
        "give readable ones"
    )


def _read(
    listing: Listing, split: str, pixels: tuple[int, int], size: int | None, unreadable: OnUnreadable
) -> ImageSet:
    width, height = pixels
    images = np.empty((len(listing.files), 3, height, width), dtype=np.uint8)
    labels = listing.labels
    failed = _fill(images, listing.files, size, unreadable)
    if failed:
        readable = np.ones(len(labels), dtype=np.bool_)
        readable[list(failed)] = False
        for label, name in enumerate(listing.classes):
            members = np.flatnonzero(labels == label)
            if not readable[members].any():
                raise InputError(
                    f"not one of the {len(members)} images in {show(listing.folder / name)} can be read "
                    f"(the first: {failed[members[0]]}); give readable ones, or remove the folder"
                )
        images, labels = images[readable], labels[readable]
    tensor = torch.from_numpy(images)
    mean, std = channel_statistics(tensor)
    skipped = tuple(str(listing.files[i]) for i in sorted(failed))
    return ImageSet(tensor, torch.from_numpy(labels), listing.classes, "folder", split, mean, std, skipped=skipped)


def _fill(
    images: NDArray[np.uint8], files: list[Path], size: int | None, unreadable: OnUnreadable
) -> dict[int, Unreadable]:
    """Read every file into its place (3, H, W). Returns, by place, what is wrong with those that are to be skipped."""
    height, width = images.shape[2:]

    def read(start: int) -> dict[int, Unreadable]:
        failed = {}
        for i in range(start, min(start + _FILES_A_TASK, len(files))):
            try:
                pixels = decode(files[i], size)
            except Unreadable as error:
                if unreadable == "error":
                    raise _fatal(error) from error
                failed[i] = error
                continue
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


def _gib(count: int) -> str:
    return f"{count / 2**30:.2g} GiB"
