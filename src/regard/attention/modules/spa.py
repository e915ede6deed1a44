"""Spatial pyramid attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention.gated import AttentionModule, ChannelAttention
from regard.attention.gates import Gate
from regard.attention.modules.sizes import hidden_units
from regard.attention.registry import register

# Side lengths of the pooling grids, and their total number of cells.
_SIDES = (1, 2, 4)
_CELLS = sum(side * side for side in _SIDES)


class Projection(AttentionModule):
    """An `nn.Linear` without a bias; timm's initialisation of EfficientNets expects a bias in every `nn.Linear`."""

    def __init__(
        self, inputs: int, outputs: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, device=device, dtype=dtype))
        self._start()

    def _start(self) -> None:
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


@register("spa")
class SpatialPyramidAttention(ChannelAttention):
    """Spatial pyramid attention (SPANet, Guo et al., ICME 2020, section 3).

    `u = W2 relu(W1 [pool1(x), pool2(x), pool4(x)])`, one logit per channel: the features are averaged over grids of
    1 x 1, 2 x 2 and 4 x 4 cells; two linear layers without biases follow on the 21 C values.

    Args:
        channels: C.
        reduction: the hidden layer has `max(C // reduction, 1)` units.
        gate: turns the logits into factors.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Parameters: 22 C H for H hidden units, plus the gate's parameters.

    Raises:
        InputError: `reduction` is below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, gate=gate, device=device, dtype=dtype)
        hidden = hidden_units(channels, reduction)
        self.fc1 = Projection(_CELLS * channels, hidden, device=device, dtype=dtype)
        self.fc2 = Projection(hidden, channels, device=device, dtype=dtype)

    def statistics(self, x: Tensor) -> tuple[Tensor, ...]:
        """The features, and the pooled features (N, 21 C), in the order grid, channel, cell."""
        return x, torch.cat([F.adaptive_avg_pool2d(x, side).flatten(1) for side in _SIDES], dim=1)

    def channel_logits(self, pyramid: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(pyramid)))
