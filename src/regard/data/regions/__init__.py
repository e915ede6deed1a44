"""Sets of images with regions, in the formats they are published in: one file a format."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from regard.data.dataset import ImageDataset
from regard.data.listing import existing_folder, show
from regard.data.regions import coco, cub, folder, imagenet, masks, pets, stl10, voc
from regard.data.regions.kind import Choices, Kind
from regard.errors import InputError, unknown

# In the order in which they are recognised: what asks for the most is tried first.
_KINDS = {module.KIND.name: module.KIND for module in (coco, cub, pets, voc, stl10, imagenet, masks, folder)}


def open_regions(
    where: str | os.PathLike[str],
    *,
    split: str | None = None,
    images: str | os.PathLike[str] | None = None,
    region: str | None = None,
    boundary: str | None = None,
    limit: int | None = None,
) -> ImageDataset:
    """Open a set of image files with regions.

    That the files are there is checked; none of them is read, but for the annotations. `docs/regions.md` says for each
    kind which files are expected where.

    Args:
        where: "KIND:PATH", where KIND is "coco", "cub", "folder", "imagenet", "masks", "pets", "stl10" or "voc"; or a
            path alone, whose kind is then found from what is there.
        split: of the set; None for the held-out one, if there is one.
        images: the folder of the images, if it is not where the kind expects it; for "coco", "imagenet", "masks" and
            "stl10".
        region: for "coco" and "voc", "all" objects of an image or only those of its "label"; for "cub" the
            "segmentation" or the "box". By default all objects, and the segmentation where there is one.
        boundary: for "pets" and "voc", whether pixels marked as border are "inside" the region or "outside". By default
            inside, for "voc" with region "label" outside.
        limit: the most images to take: they are taken at evenly spread places.

    Returns:
        the set, in the order of the annotations or of the paths of the images.

    Raises:
        InputError: nothing there, an unknown kind or choice, one that means nothing for this kind, files that are
            missing or malformed.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; give 1 or more")
    name, path = _parsed(os.fspath(where))
    kind = _KINDS[name] if name is not None else _found(path)
    choices = Choices(split, None if images is None else Path(images).expanduser(), region, boundary)
    kind.check(choices)
    if choices.images is not None:
        existing_folder(choices.images, "say where the images are")
    if not path.is_file() or kind is not coco.KIND:
        existing_folder(path, kind.layout)
    found = kind.open(path, choices)
    if limit is None or limit >= len(found):
        return found
    return found.subset((2 * np.arange(limit) + 1) * len(found) // (2 * limit))


def _parsed(where: str) -> tuple[str | None, Path]:
    """The kind, if one is named, and the path."""
    name, colon, rest = where.partition(":")
    path = Path(where).expanduser()
    if not colon or name not in _KINDS:
        # A colon may belong to a path; one after a single letter is a drive's.
        if colon and re.fullmatch(r"[a-z0-9_-]{2,}", name) and not path.exists():
            raise unknown("kind of data", name, _KINDS)
        return None, path
    if not rest:
        raise InputError(f"no path after {where!r}; {_KINDS[name].layout}")
    return name, Path(rest).expanduser()


def _found(path: Path) -> Kind:
    if not path.exists():
        raise InputError(
            f"no file or folder {show(path)}; give KIND:PATH, with KIND one of {', '.join(sorted(_KINDS))}"
        )
    for kind in _KINDS.values():
        if kind.recognised(path):
            return kind
    raise InputError(
        f"{show(path)} is none of the known kinds of data: no annotations/instances_….json or .json file (coco), "
        "image_class_labels.txt (cub), annotations/trimaps/ (pets), ImageSets/Segmentation/ (voc), stl10_….json "
        "(stl10), Annotations/CLS-LOC/ (imagenet), masks/ (masks), or folders of images (folder)"
    )
