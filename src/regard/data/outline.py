"""The area that thin strokes enclose."""

from __future__ import annotations

from math import gcd

import numpy as np
from numpy.typing import NDArray

_STEPS = 5
# Whole numbers, so that all machines agree: every slope of two numbers up to 5, each once in either direction.
_DIRECTIONS = np.array(
    [(y, x) for y in range(-_STEPS, _STEPS + 1) for x in range(-_STEPS, _STEPS + 1) if gcd(y, x) == 1], dtype=np.int32
)
_CHUNK = 512  # images at a time


def outline(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The convex hull of what is marked, as sharp as edges of 80 directions can make it.

    Args:
        masks: bool (N, H, W).

    Returns:
        bool (N, H, W): the pixels that lie, for each direction, no further out than the outermost that is marked.
        Empty where nothing is marked.
    """
    _, height, width = masks.shape
    y, x = np.divmod(np.arange(height * width, dtype=np.int32), width)
    found = np.ones((len(masks), height * width), dtype=np.bool_)
    lowest = -_STEPS * (height + width)
    for start in range(0, len(masks), _CHUNK):
        marked = masks[start : start + _CHUNK].reshape(-1, height * width)
        part = found[start : start + _CHUNK]
        for down, right in _DIRECTIONS:
            out = down * y + right * x  # (H W,), how far out each pixel is
            part &= out <= np.where(marked, out, lowest).max(1)[:, None]
        part &= marked.any(1)[:, None]
    return found.reshape(masks.shape)
