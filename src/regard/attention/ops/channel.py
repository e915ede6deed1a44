"""Gates of one factor a channel, from statistics of each channel's plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

Statistic = Literal["mean", "max", "var"]


def plane_statistics(x: Tensor, statistics: Sequence[Statistic]) -> tuple[Tensor, ...]:
    """Statistics of the planes of `x` (N, C, H, W), (N, C) each.

    'mean'; 'max'; 'var', the variance with H W - 1 in the denominator.
    """
    planes = x.flatten(2)  # (N, C, HW)
    of = {"mean": lambda: planes.mean(2), "max": lambda: planes.amax(2), "var": lambda: planes.var(2)}
    return tuple(of[name]() for name in statistics)


def channel_gated(x: Tensor, statistics: Sequence[Statistic], factors: Callable[..., Tensor]) -> Tensor:
    """`x * factors(*plane_statistics(x, statistics))`, in the dtype of `x`.

    Args:
        x: (N, C, H, W).
        statistics: what `factors` is given, (N, C) each.
        factors: gives (N, C, 1, 1).
    """
    return x * factors(*plane_statistics(x, statistics)).to(x.dtype)
