"""Maps of one size made into another."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (N, h, w) -> (N, *size), bilinearly (`align_corners=False`).

    Rounding does not lead out of the range of a map's own values, so one that is the same everywhere stays so.
    """
    if maps.shape[1:] == tuple(size):
        return maps
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return F.interpolate(maps[:, None], list(size), mode="bilinear", align_corners=False)[:, 0].clamp(low, high)
