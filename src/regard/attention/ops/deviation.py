"""Standard deviations that may be 0."""

from __future__ import annotations

import torch
from torch import Tensor


def deviation(variance: Tensor) -> Tensor:
    """The root of `variance`, of any shape; its slope at 0 is taken as 0, so that constant maps have a gradient."""
    varied = variance > 0
    return torch.where(varied, torch.where(varied, variance, 1).sqrt(), 0)
