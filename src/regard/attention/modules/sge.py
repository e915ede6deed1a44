"""Spatial group-wise enhance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.attention import functional, kernels
from regard.attention.gated import FusedAttention
from regard.attention.gates import Gate
from regard.attention.modules.sizes import fitting_groups
from regard.attention.registry import register
from regard.errors import InputError

EPS = 1e-5  # added to the standard deviation


@register("sge")
class SpatialGroupEnhance(FusedAttention):
    """Spatial group-wise enhance (SGE, arXiv 1905.09646, equations 1 to 5).

    In each of G groups of channels, `c = sum_group(mean_hw(x) * x)` is the similarity of a pixel to the group's mean
    vector, and `u = w * (c - mean_hw(c)) / (std_hw(c) + 1e-5) + b`, one map of logits per group. The standard deviation
    has H W - 1 in the denominator; for one pixel it is 0.

    `w` starts at 0 and `b` at 1: every gate starts at sigmoid(1). A gate with parameters has separate ones for each
    group.

    Args:
        channels: C, a multiple of `groups`.
        groups: G; the published value is 64.
        gate: turns the logits into factors.

    Shape: (N, C, H, W) -> (N, C, H, W); the logits are (N, G, H, W).
    Parameters: 2 G, plus the gate's parameters.

    Raises:
        InputError: `channels` is not a multiple of `groups`.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int = 64,
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if groups < 1 or channels % groups:
            raise InputError(
                f"spatial group-wise enhance with {groups} groups needs a multiple of {groups} channels, not "
                f"{channels} ({fitting_groups(channels)})"
            )
        super().__init__(channels, gate=gate, gate_channels=groups, device=device, dtype=dtype)
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(1, groups, 1, 1, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(1, groups, 1, 1, device=device, dtype=dtype))
        self._start()

    def _start(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.ones_(self.bias)

    def logits(self, x: Tensor) -> Tensor:
        """Gate logits, one map per group: (N, G, H, W)."""
        return functional.group_logits(x, self.weight.flatten(), self.bias.flatten(), EPS)

    def fused(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return kernels.group_gate(x, self.weight.flatten(), self.bias.flatten(), w, b, EPS)[0]

    def gate_values(self, x: Tensor) -> Tensor:
        """The map of each group, repeated for its channels (N, C, H, W)."""
        return self.gate(self.logits(x)).repeat_interleave(self.channels // self.groups, dim=1)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, groups={self.groups}"
