"""Bottleneck attention."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from regard.attention.gated import GatedAttention
from regard.attention.gates import Gate
from regard.attention.modules.sizes import hidden_units
from regard.attention.registry import register
from regard.errors import unknown


@register("bam")
class BottleneckAttention(GatedAttention):
    """Bottleneck attention (BAM, arXiv 1807.06514, equations 1 to 4).

    `x * (1 + gate(u))` with `u = u_c + u_s`, one logit per pixel and channel: `u_c = W2 relu(norm(W1 mean_hw(x)))` has
    one value per channel, and `u_s = conv1x1(d(d(r(x))))` one per pixel, where r is a 1 x 1 convolution to the hidden
    channels and d a dilated 3 x 3 convolution, each followed by batch norm and ReLU. All layers have biases.

    The paper and the authors' code differ. The batch norms are between the layers, as in the code; the paper has them
    after the last layer. The default is the sum of the paper; `combine="product"` is the code's `u = u_c * u_s`.

    Initialisation as in the authors' networks: convolutions normal with variance 2 / fan-out, all biases 0. In
    training, the batch norms need at least two images.

    Args:
        channels: C.
        reduction: the hidden layers have `max(C // reduction, 1)` channels.
        dilation: dilation of the 3 x 3 convolutions.
        combine: 'sum' or 'product'.
        gate: turns the logits into factors.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Parameters: 3 C H + 18 H^2 + 13 H + C + 1 for H hidden channels, plus the gate's parameters.

    Raises:
        InputError: `reduction` is below 1, or `combine` unknown.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        dilation: int = 4,
        combine: Literal["sum", "product"] = "sum",
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if combine not in ("sum", "product"):
            raise unknown("way to combine the logits of bottleneck attention", combine, ("sum", "product"))
        super().__init__(channels, gate=gate, device=device, dtype=dtype)
        self.combine = combine
        hidden = hidden_units(channels, reduction)
        factory: Any = {"device": device, "dtype": dtype}
        dilated: Any = {"padding": dilation, "dilation": dilation, **factory}
        self.channel = nn.Sequential(
            *(nn.Linear(channels, hidden, **factory), nn.BatchNorm1d(hidden, **factory), nn.ReLU()),
            nn.Linear(hidden, channels, **factory),
        )
        self.spatial = nn.Sequential(
            *(nn.Conv2d(channels, hidden, 1, **factory), nn.BatchNorm2d(hidden, **factory), nn.ReLU()),
            *(nn.Conv2d(hidden, hidden, 3, **dilated), nn.BatchNorm2d(hidden, **factory), nn.ReLU()),
            *(nn.Conv2d(hidden, hidden, 3, **dilated), nn.BatchNorm2d(hidden, **factory), nn.ReLU()),
            nn.Conv2d(hidden, 1, 1, **factory),
        )
        self._start()

    def _start(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 4 and name.startswith("spatial"):
                nn.init.kaiming_normal_(parameter, mode="fan_out")

    def logits(self, x: Tensor) -> Tensor:
        channel_logits = self.channel(x.mean((2, 3)))[:, :, None, None]  # (N, C, 1, 1)
        pixel_logits = self.spatial(x)  # (N, 1, H, W)
        return channel_logits + pixel_logits if self.combine == "sum" else channel_logits * pixel_logits

    def gate_values(self, x: Tensor) -> Tensor:
        return 1 + super().gate_values(x)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, combine={self.combine!r}"
