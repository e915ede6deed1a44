"""Style-based recalibration."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.attention import kernels
from regard.attention.gated import ChannelAttention
from regard.attention.gates import Gate
from regard.attention.registry import register


@register("srm")
class StyleRecalibration(ChannelAttention):
    """Style-based recalibration (SRM, arXiv 1903.10829, equations 1 to 5).

    `u = norm(w1 * mean_hw(x) + w2 * sqrt(var_hw(x) + 1e-5))` with two weights per channel (`cfc`, channel-wise fully
    connected) and a batch norm. As in the authors' code, the variance has H W - 1 in the denominator (the paper has
    H W), and the root includes 1e-5 (the paper does not). The variance of one pixel is 0 (NaN in the authors' code).

    The weights start at 0, so that every gate starts at sigmoid(0). In training, the batch norm needs at least two
    images.

    Args:
        channels: C.
        gate: turns the logits into factors.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Parameters: 4 C, plus the gate's parameters.
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
        self.cfc = nn.Parameter(torch.empty(channels, 2, device=device, dtype=dtype))
        self.bn = nn.BatchNorm1d(channels, device=device, dtype=dtype)
        self._start()

    def _start(self) -> None:
        nn.init.zeros_(self.cfc)

    def statistics(self, x: Tensor) -> tuple[Tensor, ...]:
        return kernels.channel_mean_variance(x)

    def channel_logits(self, mean: Tensor, variance: Tensor) -> Tensor:
        return self.bn(self.cfc[:, 0] * mean + self.cfc[:, 1] * (variance + 1e-5).sqrt())
