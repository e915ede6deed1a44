"""Masks of boxes.

Coordinates are in pixels, x to the right and y down from the upper left corner of the image: the pixel in row r and
column c covers [c, c + 1) x [r, r + 1). It belongs to a box if its centre (c + 0.5, r + 0.5) does. Centres on an upper
or left edge are inside, on a lower or right edge outside. What lies beyond the image is cut off.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from regard.data.dataset import Mask


def box_mask(boxes: Iterable[Iterable[float]], width: int, height: int) -> Mask:
    """The union of boxes (left, top, right, bottom), not necessarily whole numbers; one turned inside out is empty."""
    mask = np.zeros((height, width), dtype=np.bool_)
    for box in boxes:
        left, top, right, bottom = first_pixels(np.clip(np.fromiter(box, np.float64, 4), 0, (width, height) * 2))
        mask[top:bottom, left:right] = True
    return mask


def first_pixels(edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first pixel, wherever the image ends, whose centre is at the edge or after it."""
    return np.ceil(edges - 0.5).astype(np.int64)
