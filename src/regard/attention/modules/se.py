"""Squeeze-and-excitation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.attention.gated import ChannelAttention
from regard.attention.gates import Gate
from regard.attention.modules.sizes import hidden_units
from regard.attention.registry import register


@register("se")
class SqueezeExcitation(ChannelAttention):
    """Squeeze-and-excitation (Hu et al., arXiv 1709.01507, equations 2 to 4).

    `u = W2 relu(W1 mean_hw(x) + b1) + b2`, one logit per channel. With `gate=SubAttention(order=1)` this is the module
    of LSAS-SENet (arXiv 2305.05200).

    Args:
        channels: C.
        reduction: the hidden layer has `max(C // reduction, 1)` units.
        gate: turns the logits into factors.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Parameters: 2 C H + H + C for H hidden units, plus the gate's parameters.

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
        self.fc1 = nn.Linear(channels, hidden, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, channels, device=device, dtype=dtype)

    def channel_logits(self, mean: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(mean)))
