"""Spatial attention, a part of CBAM and of triplet attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.attention.gated import GatedAttention
from regard.attention.gates import Gate
from regard.attention.modules.sizes import same_padding


class SpatialAttention(GatedAttention):
    """The spatial gate of CBAM (arXiv 1807.06521, equation 3), one map for all channels.

    `u = norm(conv_k([max_c(x), mean_c(x)]))`, a convolution from two maps to one, without a bias, and a batch norm with
    momentum 0.01. The second dimension of `x`, which is pooled, may have any length.

    The convolution starts normal with variance 2 / k^2, as in the authors' networks, and the weight of the batch norm
    at `norm_start`; with 0 every gate starts at sigmoid(0). The parameters of a gate have one channel.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        norm_start: float = 1.0,
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, gate=gate, gate_channels=1, device=device, dtype=dtype)
        self.conv = nn.Conv2d(
            2, 1, kernel_size, padding=same_padding(kernel_size), bias=False, device=device, dtype=dtype
        )
        self.bn = nn.BatchNorm2d(1, momentum=0.01, device=device, dtype=dtype)
        self.norm_start = norm_start
        self._start()

    def _start(self) -> None:
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        nn.init.constant_(self.bn.weight, self.norm_start)

    def map_logits(self, mean: Tensor, maximum: Tensor) -> Tensor:
        """Gate logits (N, 1, H, W) from mean and maximum over the channels, (N, 1, H, W) each."""
        return self.bn(self.conv(torch.cat((maximum, mean), dim=1)))

    def logits(self, x: Tensor) -> Tensor:
        return self.map_logits(x.mean(1, keepdim=True), x.max(1, keepdim=True).values)
