"""Regions drawn as pictures: masks, and maps of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard.data.dataset import Mask
from regard.data.decode import Unreadable, opened
from regard.data.listing import show

_LOSSY = ("JPEG", "WEBP")
_PLAIN = ("1", "L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L")


def mask_of(path: Path) -> Mask:
    """The pixels of a picture that are neither black nor transparent, bool (H, W); its EXIF is not looked at.

    In a JPEG or WebP file, where compression leaves traces in the black, those with a value of at least 128.

    Raises:
        Unreadable: see `regard.data.decode.decode`.
    """
    with opened(path) as image:
        least = 128 if image.format in _LOSSY else 1
        shown = image if image.mode in _PLAIN else image.convert("RGBA")
        pixels = np.asarray(shown)
    if pixels.dtype == np.bool_:
        return pixels
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    colours = pixels.shape[2] - shown.mode.endswith("A")
    mask = np.asarray((pixels[:, :, :colours] >= least).any(axis=2))
    return mask & (pixels[:, :, -1] > 0) if colours < pixels.shape[2] else mask


def numbers_of(path: Path) -> NDArray[np.integer[Any]]:
    """The numbers of a picture of one number a pixel, (H, W): of its palette, or its grey.

    Raises:
        Unreadable: a picture in colour, and see `regard.data.decode.decode`.
    """
    with opened(path) as image:
        if image.mode not in ("P", *_PLAIN) or len(image.getbands()) > 1:
            raise Unreadable(f"{show(path)} is a picture in {image.mode}; expected one with a palette, or in grey")
        return np.asarray(image).astype(np.int32) if image.mode == "1" else np.asarray(image)
