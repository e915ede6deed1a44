"""Masks from polygons, run-length codes, boxes and grids.

Coordinates are in pixels, x to the right and y down from the upper left corner of the image: the pixel in row r and
column c covers [c, c + 1) x [r, r + 1). It belongs to a shape if its centre (c + 0.5, r + 0.5) does. Centres on an
upper or left edge are inside, on a lower or right edge outside. What lies beyond the image is cut off.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard.data.dataset import Mask

Ring = NDArray[np.floating[Any]]
Runs = NDArray[np.int64]

_MOST_CROSSINGS = 2**24
_CROSSINGS_AT_A_TIME = 2**20


def polygon_mask(rings: Iterable[Ring], width: int, height: int) -> Mask:
    """The union of what polygons enclose, as in COCO: one within another adds to it, and cuts no hole.

    Args:
        rings: each (n, 2), x and y of the corners one after another; the last is joined to the first. Where a ring
            crosses itself, what it goes around an even number of times is outside. One of fewer than three corners
            encloses nothing.
        width: of the image, pixels.
        height: of the image, pixels.

    Returns:
        bool (height, width).

    Raises:
        ValueError: the edges cross more than 2^24 rows of pixels in all.
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    corners = [ring for ring in (np.asarray(ring, dtype=np.float64).reshape(-1, 2) for ring in rings) if len(ring) > 2]
    if not corners:
        return mask
    ends = np.cumsum([len(ring) for ring in corners])
    start = np.concatenate(corners)
    following = np.arange(1, len(start) + 1)
    following[ends - 1] = ends - [len(ring) for ring in corners]
    down = start[:, 1] < start[following, 1]
    # Always from the upper end, so that two rings with a common edge meet without a gap.
    upper_x, upper_y = np.where(down[:, None], start, start[following]).T
    lower_x, lower_y = np.where(down[:, None], start[following], start).T
    ring = np.repeat(np.arange(len(corners)), [len(ring) for ring in corners])
    # Each edge crosses the lines through the centres of these rows.
    first, last = _first(upper_y, height), _first(lower_y, height)
    crossings = np.cumsum(np.bincount(first, minlength=height + 1) - np.bincount(last, minlength=height + 1))
    total = np.cumsum(crossings[:height])
    if total[-1] > _MOST_CROSSINGS:
        raise ValueError(
            f"polygons of {len(start)} corners in all cross {total[-1]} rows of pixels, more than {_MOST_CROSSINGS}"
        )
    top = int(first.min())
    while top < last.max():
        done = total[top - 1] if top else 0
        bottom = max(top + 1, int(np.searchsorted(total, done + _CROSSINGS_AT_A_TIME)))
        bottom = min(bottom, int(last.max()))
        count = np.clip(last, top, bottom) - np.clip(first, top, bottom)
        edge = np.repeat(np.arange(len(start)), count)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + np.maximum(first, top)[edge]
        share = (row + 0.5 - upper_y[edge]) / (lower_y - upper_y)[edge]
        column = _first(upper_x[edge] + share * (lower_x - upper_x)[edge], width)
        # From each crossing to the next of its ring in its row.
        order = np.sort((ring[edge] * height + row) * (width + 1) + column)
        place = order % (height * (width + 1)) - top * (width + 1)
        mask[top:bottom] = _between(place[::2], place[1::2], (bottom - top, width + 1))[:, :-1]
        top = bottom
    return mask


def _between(starts: NDArray[np.int64], ends: NDArray[np.int64], shape: tuple[int, int]) -> Mask:
    """What is at a start or after it, and before its end, in an array of this shape; each pair lies in one row."""
    changes = np.zeros(shape[0] * shape[1], dtype=np.int32)
    np.add.at(changes, starts, 1)
    np.add.at(changes, ends, -1)
    changes = changes.reshape(shape)
    return np.asarray(np.cumsum(changes, axis=1, out=changes) > 0)


def box_mask(boxes: Iterable[Iterable[float]], width: int, height: int) -> Mask:
    """The union of boxes (left, top, right, bottom), not necessarily whole numbers; one turned inside out is empty."""
    mask = np.zeros((height, width), dtype=np.bool_)
    for box in boxes:
        x1, y1, x2, y2 = box
        left, right = _first(np.array([x1, x2], dtype=np.float64), width)
        top, bottom = _first(np.array([y1, y2], dtype=np.float64), height)
        mask[top:bottom, left:right] = True
    return mask


def grid_mask(cells: NDArray[np.integer[Any]], side: int, width: int, height: int) -> Mask:
    """The marked cells of a grid of side x side over the whole image.

    Args:
        cells: (n, 2), column and row of each, from 0; those outside the grid mark nothing.
        side: cells along each side.
        width: of the image, pixels.
        height: of the image, pixels.
    """
    marked = np.zeros((side, side), dtype=np.bool_)
    x, y = np.asarray(cells).reshape(-1, 2).T
    within = (x >= 0) & (x < side) & (y >= 0) & (y < side)
    marked[y[within], x[within]] = True
    rows, columns = ((2 * np.arange(length) + 1) * side // (2 * length) for length in (height, width))
    return marked[np.ix_(rows, columns)]


def run_mask(codes: Iterable[NDArray[np.integer[Any]]], width: int, height: int) -> Mask:
    """The union of what run-length codes cover, bool (height, width).

    Args:
        codes: each lengths of runs outside and inside in turns, down the columns, from the left, which fill the image.
        width: of the image, pixels.
        height: of the image, pixels.
    """
    edges = [np.cumsum(runs, dtype=np.int64)[: len(runs) // 2 * 2] for runs in codes]
    ends = np.concatenate([np.zeros(0, dtype=np.int64), *edges])
    return _between(ends[::2], ends[1::2], (1, width * height + 1))[0, :-1].reshape(width, height).T


def runs_of(counts: object, width: int, height: int) -> Runs:
    """The runs of a run-length code of COCO.

    Args:
        counts: a list of numbers, or COCO's string, which packs them, each but the first three as the difference to the
            one before the last.
        width: of the image, pixels.
        height: of the image, pixels.

    Raises:
        ValueError: not a code, or not one of an image of this size.
    """
    if not width * height < 2**32:
        raise ValueError(f"its {width} x {height} pixels are more than an image has")
    if isinstance(counts, str | bytes):
        runs = _unpacked(counts.encode() if isinstance(counts, str) else counts)
    elif isinstance(counts, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in counts):
        if any(not 0 <= n <= width * height for n in counts):
            raise ValueError("its runs do not fit the image")
        runs = np.array(counts, dtype=np.int64)
    else:
        raise ValueError("its counts are neither a list of numbers nor a string")
    if (runs < 0).any() or (runs > width * height).any() or runs.sum() != width * height:
        raise ValueError(f"its runs do not add up to {width} x {height} pixels")
    return runs


def _unpacked(code: bytes) -> Runs:
    """The numbers of a packed string: five bits a character, the lowest first, a sixth if there are more to come."""
    characters = np.frombuffer(code, dtype=np.uint8).astype(np.int64) - 48
    if not len(characters):
        return np.zeros(0, dtype=np.int64)
    if ((characters < 0) | (characters > 63)).any() or characters[-1] & 32:
        raise ValueError("its string is not a run-length code")
    ends = np.flatnonzero((characters & 32) == 0)
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > 8:  # 40 bits, more than any image
        raise ValueError("its string is not a run-length code")
    place = np.arange(len(characters)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((characters & 31) << (5 * place), starts)
    # The fifth bit of the last character is the sign.
    numbers -= ((characters[ends] >> 4) & 1) << (5 * lengths)
    # The first three stand for themselves; from there on, the even and the odd add up apart.
    for start in (1, 2):
        numbers[start::2] = np.cumsum(numbers[start::2])
    return numbers


def first_pixels(edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first pixel, wherever the image ends, whose centre is at the edge or after it."""
    return np.ceil(edges - 0.5).astype(np.int64)


def _first(edges: NDArray[np.float64], length: int) -> NDArray[np.int64]:
    """The first pixel whose centre is at the edge or after it, 0 to length."""
    return first_pixels(np.clip(edges, 0, length))
