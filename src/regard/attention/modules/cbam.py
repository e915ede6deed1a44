"""Convolutional block attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.attention import kernels
from regard.attention.gated import ChannelAttention, ProductAttention
from regard.attention.gates import Gate
from regard.attention.modules.sizes import hidden_units
from regard.attention.modules.spatial import SpatialAttention
from regard.attention.registry import register


class MeanMaxAttention(ChannelAttention):
    """The channel gate of CBAM (arXiv 1807.06521, equation 2).

    `u = mlp(mean_hw(x)) + mlp(max_hw(x))` with `mlp(s) = W2 relu(W1 s + b1) + b2`. The biases start at 0.
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
        self._start()

    def _start(self) -> None:
        nn.init.zeros_(self.fc1.bias)
        nn.init.zeros_(self.fc2.bias)

    def statistics(self, x: Tensor) -> tuple[Tensor, ...]:
        return kernels.channel_mean_max(x)

    def channel_logits(self, mean: Tensor, maximum: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(mean))) + self.fc2(torch.relu(self.fc1(maximum)))


@register("cbam")
class ConvolutionalBlockAttention(ProductAttention):
    """Convolutional block attention (CBAM, arXiv 1807.06521, equations 1 to 3).

    Two gates in sequence: the channel gate, `u = mlp(mean_hw(x)) + mlp(max_hw(x))`, then the spatial gate on its
    output, `u = norm(conv7x7([max_c(x), mean_c(x)]))`, one map for all channels.

    The batch norm's weight starts at 0, as in the authors' networks: the spatial gate starts at sigmoid(0).

    Args:
        channels: C.
        reduction: the hidden layer has `max(C // reduction, 1)` units.
        kernel_size: side of the convolution's kernel, odd.
        gate: turns both kinds of logits into factors; a gate with parameters has separate ones for the C channels and
            for the map.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Parameters: 2 C H + H + C + 2 k^2 + 2 for H hidden units and kernel size k, plus the gates' parameters.

    Raises:
        InputError: `reduction` is below 1, or `kernel_size` even or below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        kernel_size: int = 7,
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.channel = MeanMaxAttention(channels, reduction=reduction, gate=gate, device=device, dtype=dtype)
        self.spatial = SpatialAttention(
            channels, kernel_size=kernel_size, norm_start=0.0, gate=gate, device=device, dtype=dtype
        )

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The features, the channel gate (N, C, 1, 1) and the spatial gate (N, 1, H, W).

        Their product is `self.spatial(self.channel(x))`, without storing the intermediate features.
        """
        x, channel_gate = self.channel.factors(x)
        x, mean, maximum = kernels.pixel_mean_max(x, channel_gate)
        return x, channel_gate, self.spatial.gate(self.spatial.map_logits(mean, maximum))
