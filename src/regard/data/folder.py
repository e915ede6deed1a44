"""Sets from folders of class folders."""

from __future__ import annotations

import os
from collections.abc import Sequence

from regard.data.dataset import InMemoryDataset, Splits
from regard.data.decode import OnUnreadable, quiet
from regard.data.listing import list_folder, list_splits
from regard.data.whole import MEMORY_LIMIT, check_choices, pixels_of, read_listing, read_splits


def load_folder(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    unreadable: OnUnreadable = "error",
    memory_limit: int = MEMORY_LIMIT,
) -> Splits:
    """Read `train/` and `test/` (or `val/`, `valid/`, `validation/`: the first that is there) of class folders.

    The class folders for testing are among those for training; of classes without test images a warning tells. Mean and
    std are those of the training images. For the rest see `read_folder`; the memory limit holds for each of the two.
    """
    check_choices(size, unreadable, memory_limit)
    with quiet():
        return read_splits("folder", list_splits(path), size, unreadable, memory_limit)


def read_folder(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    unreadable: OnUnreadable = "error",
    classes: Sequence[str] | None = None,
    split: str = "train",
    memory_limit: int = MEMORY_LIMIT,
) -> InMemoryDataset:
    """Read a folder of class folders: one set, in order of class and then of path.

    Images are the files with an ending of `regard.data.EXTENSIONS`, in any case, in a class folder and the folders in
    it, linked ones too; other files, hidden ones, and folders that devices and archives make are passed over. Images of
    every kind become RGB: they are turned upright as their EXIF orientation says, of an animation the first picture
    counts, 16 bits become 8, transparency is dropped.

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
            different sizes and no `size`, or more bytes than `memory_limit` or the machine has. It says so before the
            images are read, where that can be known.
    """
    check_choices(size, unreadable, memory_limit)
    with quiet():
        listing = list_folder(path, classes)
        pixels = pixels_of(listing, size, unreadable, memory_limit)
        return read_listing("folder", listing, split, pixels, size, unreadable)
