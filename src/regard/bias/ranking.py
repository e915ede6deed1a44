"""Ranks of pixels with ties, for many images at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Ranking:
    """The pixels of each image in ascending order of value, with whether they are inside the region.

    A pixel is an integer key: the bits of its value, which are ordered like the values because these are not negative,
    followed by one bit for inside. A single sort of the keys, without indices, thus serves all measures; among equal
    values, pixels outside come first. Values (N, P) are float32 or float64, finite and at least 0.
    """

    def __init__(self, values: Tensor, inside: Tensor) -> None:
        self.dtype = values.dtype
        self.pixels = values.shape[1]
        self.keys = _ascending(_packed(values, inside))
        # (N, P + 1): the number of the lowest 0, 1, …, P pixels that are inside.
        self.inside_below = F.pad((self.keys & 1).cumsum(1, dtype=torch.int32), (1, 0))
        self.region = self.inside_below[:, -1].long()  # (N,), the size of the region

    @property
    def values(self) -> Tensor:
        """The values, ascending, (N, P)."""
        return _unpacked(self.keys, self.dtype)

    def inside_highest(self, k: Tensor) -> Tensor:
        """The number of the `k` highest pixels that are inside, (N, K), for integers `k` (N, K) from 0 to P."""
        return self.region[:, None] - self.inside_below.gather(1, self.pixels - k)

    def peak_inside(self) -> Tensor:
        """Whether a pixel with the highest value is inside, bool (N,)."""
        return self.keys[:, -1] & 1 == 1

    def auc(self) -> Tensor:
        """The share of pairs (pixel inside, pixel outside) in which the inside one is higher (N,); ties count half.

        Exact in integers up to the last division. NaN if there is no pair.
        """
        region = self.region
        # A pixel inside wins against all pixels outside before it, at first including those of equal value.
        positions = region * self.pixels - self.inside_below.sum(1)  # the sum of the positions of pixels inside
        wins = positions - region * (region - 1) // 2
        # Pixels outside precede pixels inside of equal value. So for a pixel inside, the start of its run of equal keys
        # minus the start of its run of equal values is its number of ties; for a pixel outside both are the same.
        steps = F.pad(self.keys[:, 1:] ^ self.keys[:, :-1], (1, 0))
        ties = (_run_starts(steps) - _run_starts(steps >> 1)).sum(1)
        pairs = 2 * region * (self.pixels - region)
        return (2 * wins - ties).to(self.dtype) / pairs

    def precision(self, k: Tensor) -> Tensor:
        """The share of the `k` highest pixels that are inside, for integers `k` (N, K) from 0 to P; NaN for k = 0.

        If pixels tie for the last ranks, this is the expected value over all their orders.
        """
        last = self.keys.gather(1, (self.pixels - k).clamp(max=self.pixels - 1))  # the key of the k-th highest pixel
        ends = torch.stack((last & ~1, (last & ~1) + 2), 2).flatten(1)
        ends = torch.searchsorted(self.keys, ends).unflatten(1, (-1, 2))  # the range of pixels that tie with it
        above = self.pixels - ends[..., 1]
        inside_above = self.inside_highest(above)
        inside_tied = self.inside_highest(self.pixels - ends[..., 0]) - inside_above
        tied = ends[..., 1] - ends[..., 0]
        expected = ((k - above) * inside_tied).to(self.dtype) / tied
        return (inside_above + expected) / k


_HALF = {torch.int32: 1 << 30, torch.int64: 1 << 62}  # half the number of non-negative integers


def _packed(values: Tensor, inside: Tensor) -> Tensor:
    """Keys, int32 for float32 and int64 for float64, with an offset that makes room for the additional bit."""
    bits = values.abs().view(torch.int32 if values.dtype == torch.float32 else torch.int64)  # abs turns -0 into 0
    return (bits - _HALF[bits.dtype]) * 2 + inside


def _unpacked(keys: Tensor, dtype: torch.dtype) -> Tensor:
    return ((keys >> 1) + _HALF[keys.dtype]).view(dtype)


def _ascending(keys: Tensor) -> Tensor:
    """Sorts each row, in place on a CPU, where NumPy takes a third of the time of torch, which tracks indices."""
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
    """The start of each pixel's run, (N, P) int32; runs start where the step to a pixel is not 0."""
    positions = torch.arange(steps.shape[1], dtype=torch.int32, device=steps.device)
    return (positions * (steps != 0)).cummax(1).values
