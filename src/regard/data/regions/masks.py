"""Regions stored as images, binary masks or label maps, and the data set `masks` of a user's images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard.data.dataset import Mask
from regard.data.decode import Frame, Unreadable, open_image
from regard.data.file_dataset import FileDataset
from regard.data.listing import SPLITS, Tree, by_stem, existing_folder, no_images, quote_names, show
from regard.data.objects import Objects, create_objects, mask_boxes
from regard.data.registry import pick_split, register
from regard.errors import DataWarning, InputError

_LAYOUT = "expected a folder with images/ and masks/ (or instances/), or with such folders in test/, val/ or train/"
_INSTANCES = "instances"
_MAX_OBJECTS = 4096  # in an image
_LOSSY = ("JPEG", "WEBP")
_PLAIN_MODES = ("1", "L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L")


@register("masks", layout=_LAYOUT, recognised=lambda path: bool(_splits(path)) or _mask_folder(path) is not None)
def open_masks(path: Path, split: str | None = None, images: str | None = None) -> FileDataset:
    """Opens a split, if the folder has splits. The region of an image without a mask is unknown.

    In `instances/` each number above 0 is a separate object; its class is the class of the image, or "object". Every
    image needs a mask there, because detectors also learn from images without objects. `images` is the folder of the
    images; None for `images/`.
    """
    splits = [] if _mask_folder(path) else _splits(path)
    if splits or split is not None:
        split = pick_split(split, splits, path, SPLITS)
        path = path / split
    masks = _mask_folder(path) or path
    expected = f"{_LAYOUT}, or give the folder of the images (images)"
    folder = existing_folder(path / "images" if images is None else images, expected)
    keys = Tree(folder).images()
    if not keys:
        raise no_images(folder)
    files, _ = masks_by_name(list(by_stem(keys, folder, "images")), masks)
    missing = [key for key, file in zip(keys, files, strict=True) if file is None]
    instances = masks.name == _INSTANCES
    message = (
        f"{len(missing)} of the {len(keys)} images in {show(folder)} have no mask in {show(masks)} "
        f"({quote_names(missing, 3)})"
    )
    if missing and instances:
        raise InputError(f"{message}; expected a picture of the same path and name, black if it has no objects")
    if missing:
        warnings.warn(f"{message}: their region is unknown", DataWarning, stacklevel=2)
    names = [key.split("/")[0] if "/" in key else "object" if instances else None for key in keys]
    classes = sorted({name for name in names if name is not None})
    labels = [-1 if name is None else classes.index(name) for name in names]
    shared = "masks", split or "", folder, keys, labels, classes, files
    if instances:
        return FileDataset(*shared, _label_map_region, objects=_label_map_objects, object_masks=True)
    return FileDataset(*shared, mask_region)


def _mask_folder(path: Path) -> Path | None:
    """The folder of masks in a data set or split."""
    return next((path / name for name in ("masks", _INSTANCES) if (path / name).is_dir()), None)


def _splits(path: Path) -> list[str]:
    return [name for name in SPLITS if _mask_folder(path / name)]


def _label_map_region(path: Path, frame: Frame, label: int) -> Mask:
    return read_label_map(path) > 0


def _label_map_objects(path: Path, frame: Frame, label: int, masks: bool) -> Objects:
    """The objects of a label map: each number above 0 is one, of the image's class."""
    numbers = read_label_map(path)
    ids = np.unique(numbers[numbers > 0])
    if len(ids) > _MAX_OBJECTS:
        raise Unreadable(f"{show(path)} has {len(ids)} objects; expected at most {_MAX_OBJECTS}")
    shapes = np.zeros((len(ids), *frame.upright[::-1]), dtype=np.bool_)
    for shape, number in zip(shapes, ids, strict=True):
        shape[:] = frame.turn(numbers == number, path)
    objects = create_objects(mask_boxes(shapes), [label] * len(ids), shapes, size=frame.upright, ids=ids)
    return objects if masks else objects._replace(masks=None)


def masks_by_name(stems: Sequence[str], folder: Path) -> tuple[list[Path | None], int]:
    """The mask file of each image, and the number of masks without an image.

    `stems` are the paths of the images without extension; masks have the same. Raises InputError if two masks have the
    same stem, or no image has a mask.
    """
    masks = by_stem(Tree(folder).images(), folder, "masks")
    unmatched = len(masks.keys() - set(stems))
    if unmatched == len(masks):
        raise InputError(
            f"no mask in {show(folder)} has the name of an image; expected names such as {stems[0]!r} with the "
            "extension of an image"
        )
    return [folder / masks[stem] if stem in masks else None for stem in stems], unmatched


def mask_region(path: Path, frame: Frame, label: int) -> Mask:
    return read_mask(path)


def read_mask(path: Path) -> Mask:
    """Reads a mask image: the pixels that are neither black nor transparent, bool (H, W). EXIF is ignored.

    In JPEG and WebP files, where compression changes black pixels, a pixel needs at least 128 in some channel.
    """
    with open_image(path) as image:
        threshold = 128 if image.format in _LOSSY else 1
        converted = image if image.mode in _PLAIN_MODES else image.convert("RGBA")
        pixels = np.atleast_3d(np.asarray(converted))
    colours = pixels.shape[2] - converted.mode.endswith("A")
    mask = np.asarray((pixels[:, :, :colours] >= threshold).any(axis=2))
    return mask & (pixels[:, :, -1] > 0) if colours < pixels.shape[2] else mask


def read_label_map(path: Path) -> NDArray[np.integer[Any]]:
    """Reads a label map: palette indices or grey values, integers (H, W). Raises Unreadable if the image cannot be
    read, or has more than one channel."""
    with open_image(path) as image:
        if image.mode not in ("P", *_PLAIN_MODES) or len(image.getbands()) > 1:
            raise Unreadable(f"{show(path)} is a picture in {image.mode}; expected one with a palette, or in grey")
        return np.asarray(image).astype(np.int32) if image.mode == "1" else np.asarray(image)
