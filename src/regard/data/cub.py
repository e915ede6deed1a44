"""CUB-200-2011, to learn its species from."""

from __future__ import annotations

import os
from typing import Literal, get_args

from regard.data.dataset import Splits
from regard.data.decode import OnUnreadable, quiet
from regard.data.listing import Listing, existing_folder
from regard.data.regions import cub
from regard.data.regions.kind import Choices
from regard.data.regions.shapes import first_pixels
from regard.data.whole import MEMORY_LIMIT, check_choices, read_splits
from regard.errors import InputError, unknown

Crop = Literal["box", "none"]


def load_cub(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    unreadable: OnUnreadable = "error",
    crop: Crop = "box",
    memory_limit: int = MEMORY_LIMIT,
) -> Splits:
    """Read CUB-200-2011 (Wah et al. 2011), in its own split: 5,994 images for training, 5,794 for testing.

    Args:
        path: the folder `CUB_200_2011`, or the one it is in.
        size: as of `read_folder`; needed, for the images are of many sizes. Of a bird's box, as of an image, it takes
            the shorter side, and then the centre.
        unreadable: as of `read_folder`.
        crop: "box" cuts every image to the box of its bird first, as Attention Transfer does (arXiv 1612.03928, section
            4.2.1); "none" takes it whole.
        memory_limit: as of `read_folder`, for each of the two. 1.1 GiB are needed at 256 pixels.

    Raises:
        InputError: no size, files that are missing or malformed, an unreadable file, or more bytes than allowed.
    """
    check_choices(size, unreadable, memory_limit)
    if crop not in get_args(Crop):
        raise unknown("crop of data set 'cub'", crop, get_args(Crop))
    if size is None:
        raise InputError("the images of data set 'cub' are of many sizes; give one for all (--data.size 256)")
    where = existing_folder(path, cub.KIND.layout)
    listings = []
    for split in ("train", "test"):
        found = cub.open_cub(where, Choices(split=split, region="box"))
        files = [found.path(i) for i in range(len(found))]
        boxes = first_pixels(found._boxes) if crop == "box" else None
        listings.append(Listing(found.folder, found.classes, files, found.labels.numpy(), boxes))
    with quiet():
        return read_splits("cub", listings, size, unreadable, memory_limit)
