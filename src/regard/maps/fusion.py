"""The maps of several layers made into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from regard.maps.resize import resized

Fuse = Literal["mean", "max"]


def fused(maps: Mapping[str, Tensor], size: Sequence[int], fuse: Fuse) -> Tensor:
    """One map of several layers': each scaled to [0, 1] and resized, then their mean or their largest.

    Only scaled maps weigh the same: the gradients, and so the raw maps, of early layers are smaller by orders.

    Args:
        maps: name -> (N, h, w), of sizes of their own.
        size: of the result.

    Returns:
        (N, *size), in [0, 1]. It reaches 1 only where the layers agree. A map that is the same everywhere counts as 0.
    """
    parts = torch.stack([resized(_scaled(part), size) for part in maps.values()])
    return parts.mean(0) if fuse == "mean" else parts.amax(0)


def _scaled(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low)).nan_to_num(0)
