"""Efficient channel attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from regard.attention.gated import ChannelAttention
from regard.attention.gates import Gate
from regard.attention.modules.sizes import same_padding
from regard.attention.registry import register


@register("eca")
class EfficientChannelAttention(ChannelAttention):
    """Efficient channel attention (ECA-Net, arXiv 1910.03151, equations 9 and 12).

    `u = conv1d_k(mean_hw(x))`: a 1-d convolution over the channels with k weights, zero padding and no bias. By
    default, k grows with C: with `t = floor(|(log2(C) + 1) / 2|)` it is t if t is odd, and t + 1 if t is even. The
    authors' ResNets use k = 3 in every stage instead (`k_size=[3, 3, 3, 3]` in their `eca_resnet.py`).

    Args:
        channels: C.
        kernel_size: k, odd; None for the value of the formula.
        gate: turns the logits into factors.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Parameters: k (5 for 256 channels), plus the gate's parameters.

    Raises:
        InputError: `kernel_size` is even or below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int | None = None,
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, gate=gate, device=device, dtype=dtype)
        if kernel_size is None:
            kernel_size = int((math.log2(channels) + 1) / 2) // 2 * 2 + 1
        self.conv = nn.Conv1d(
            1, 1, kernel_size, padding=same_padding(kernel_size), bias=False, device=device, dtype=dtype
        )

    def channel_logits(self, mean: Tensor) -> Tensor:
        return self.conv(mean[:, None])[:, 0]  # a 1-d convolution over the C channels
