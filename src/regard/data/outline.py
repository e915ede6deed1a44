"""The area that thin strokes enclose."""

from __future__ import annotations

from math import gcd

import numpy as np
from numpy.typing import NDArray

_LOWEST = -(2**30)


def outline(masks: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """The convex hulls of what is marked, in whole numbers, so that all machines agree.

    Args:
        masks: bool (N, H, W).
        size: the largest height or width in pixels that the marks of an image span; larger marks get a hull slightly
            too large.

    Returns:
        bool (N, H, W); empty where nothing is marked.
    """
    _, height, width = masks.shape
    rows, columns = np.arange(height, dtype=np.int32), np.arange(width, dtype=np.int32)
    marked = masks.any(2)  # (N, H)
    first = masks.argmax(2).astype(np.int32)  # column of the first mark in each row
    last = (width - 1 - masks[:, :, ::-1].argmax(2)).astype(np.int32)
    # Every edge of a hull goes through two marks, so its slope is one of these. In each row the hull is one run.
    low, high = np.zeros_like(first), np.full_like(last, width - 1)
    steps = range(1 - size, size)
    for down, right in ((down, right) for down in steps for right in steps if gcd(down, right) == 1):
        outer = np.where(marked, down * rows + np.maximum(right * first, right * last), _LOWEST)
        left = outer.max(1, keepdims=True) - down * rows  # (N, H), what is left for `right * column`
        if right > 0:
            np.minimum(high, left // right, out=high)
        elif right < 0:
            np.maximum(low, -(left // -right), out=low)
        else:
            high[left < 0] = -1
    high[~np.any(marked, axis=1)] = -1
    return (columns >= low[:, :, None]) & (columns <= high[:, :, None])
