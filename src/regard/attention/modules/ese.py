"""Effective squeeze-and-excitation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.attention.gated import ChannelAttention
from regard.attention.gates import Gate
from regard.attention.registry import register


@register("ese")
class EffectiveSqueezeExcitation(ChannelAttention):
    """Effective squeeze-and-excitation (VoVNetV2 in CenterMask, arXiv 1911.06667, section 3.3).

    `u = W mean_hw(x) + b`, one logit per channel: squeeze-and-excitation without a hidden layer. The gate of the
    published code is a hard sigmoid: `gate="hard-sigmoid"`.

    The weight is initialised normal with variance 2 / C, as in the authors' network.

    Args:
        channels: C.
        gate: turns the logits into factors.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Parameters: C^2 + C, plus the gate's parameters.
    """

    def __init__(
        self,
        channels: int,
        *,
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, gate=gate, device=device, dtype=dtype)
        self.fc = nn.Linear(channels, channels, device=device, dtype=dtype)
        self._start()

    def _start(self) -> None:
        nn.init.kaiming_normal_(self.fc.weight)

    def channel_logits(self, mean: Tensor) -> Tensor:
        return self.fc(mean)
