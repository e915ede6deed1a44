"""Ranks of pixels, with ties, many images at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Ranking:
    """The pixels of each image from the lowest value to the highest, and which of them are inside its region.

    A pixel is one whole number, its key: the bits of its value, which have the order of the values as none is below 0,
    and after them one bit for inside. So a single sort, without the places that the pixels come from, carries all that
    the measures ask for; of equal values those outside come first.

    Args:
        values: (N, P), float32 or float64, finite, at least 0.
        inside: (N, P), bool.
    """

    def __init__(self, values: Tensor, inside: Tensor) -> None:
        self.dtype = values.dtype
        self.pixels = values.shape[1]
        self.keys = _ascending(_packed(values, inside))
        # (N, P + 1): how many of the lowest 0, 1, …, P pixels are inside.
        self.inside_below = F.pad((self.keys & 1).cumsum(1, dtype=torch.int32), (1, 0))
        self.region = self.inside_below[:, -1].long()  # (N,), the size of the region

    @property
    def values(self) -> Tensor:
        """The values, ascending, (N, P)."""
        return _unpacked(self.keys, self.dtype)

    def inside_highest(self, k: Tensor) -> Tensor:
        """How many of the `k` highest pixels are inside, `k` being (N, K) whole numbers from 0 to P: (N, K)."""
        return self.region[:, None] - self.inside_below.gather(1, self.pixels - k)

    def peak_inside(self) -> Tensor:
        """Whether one of the pixels of the highest value is inside, bool (N,)."""
        return self.keys[:, -1] & 1 == 1

    def auc(self) -> Tensor:
        """The share of pairs (pixel inside, pixel outside) in which the one inside is higher; equal pairs count half.

        In whole numbers up to the last division. NaN where there is no pair. (N,)
        """
        region = self.region
        # Every pixel inside beats all outside that stand before it; those of its own value are won for now.
        places = region * self.pixels - self.inside_below.sum(1)  # the sum of the places of those inside
        won = places - region * (region - 1) // 2
        # A pixel inside begins its run of equal keys as many places after its run of equal values as there are pixels
        # outside of that value; a pixel outside begins both at once.
        steps = F.pad(self.keys[:, 1:] ^ self.keys[:, :-1], (1, 0))
        equal = (_run_starts(steps) - _run_starts(steps >> 1)).sum(1)
        pairs = 2 * region * (self.pixels - region)
        return (2 * won - equal).to(self.dtype) / pairs

    def precision(self, k: Tensor) -> Tensor:
        """The share of the `k` highest pixels that are inside; NaN for k = 0.

        Pixels that tie for the last of the k places share them: the expected value over all orders of theirs.

        Args:
            k: (N, K), whole numbers from 0 to P.

        Returns:
            (N, K)
        """
        last = self.keys.gather(1, (self.pixels - k).clamp(max=self.pixels - 1))  # the key of the last place
        ends = torch.stack((last & ~1, (last & ~1) + 2), 2).flatten(1)
        ends = torch.searchsorted(self.keys, ends).unflatten(1, (-1, 2))  # of the pixels on a level with the last
        above = self.pixels - ends[..., 1]
        inside_above = self.inside_highest(above)
        inside_level = self.inside_highest(self.pixels - ends[..., 0]) - inside_above
        level = ends[..., 1] - ends[..., 0]
        of_level = ((k - above) * inside_level).to(self.dtype) / level
        return (inside_above + of_level) / k


_HALF = {torch.int32: 1 << 30, torch.int64: 1 << 62}  # half as many as there are numbers that are not negative


def _packed(values: Tensor, inside: Tensor) -> Tensor:
    """Keys: int32 of float32, int64 of float64; the lowest is the lowest number there is, so that all bits are used."""
    bits = values.abs().view(torch.int32 if values.dtype == torch.float32 else torch.int64)  # abs: -0 becomes 0
    return (bits - _HALF[bits.dtype]) * 2 + inside


def _unpacked(keys: Tensor, dtype: torch.dtype) -> Tensor:
    return ((keys >> 1) + _HALF[keys.dtype]).view(dtype)


def _ascending(keys: Tensor) -> Tensor:
    """Each row sorted; overwrites `keys`. On a processor by NumPy: a third of the time of torch, which keeps places."""
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values
    parts = np.array_split(keys.numpy(), min(torch.get_num_threads(), len(keys)) or 1)
    if len(parts) == 1:
        parts[0].sort(axis=1)
        return keys
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(lambda part: part.sort(axis=1), parts))
    return keys


def _run_starts(steps: Tensor) -> Tensor:
    """The place where each pixel's run begins, (N, P) int32; a run begins wherever the step to a pixel is not 0."""
    places = torch.arange(steps.shape[1], dtype=torch.int32, device=steps.device)
    return (places * (steps != 0)).cummax(1).values
