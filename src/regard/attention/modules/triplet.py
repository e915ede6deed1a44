"""Triplet attention."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.attention.gated import AttentionModule, check_features
from regard.attention.gates import Gate
from regard.attention.modules.spatial import SpatialAttention
from regard.attention.registry import register


@register("triplet")
class TripletAttention(AttentionModule):
    """Triplet attention (arXiv 2010.03045, equations 1 to 4).

    `x * (g_hw + g_cw + g_hc) / 3`. Each gate is a spatial attention, `u = norm(conv7x7([max(x), mean(x)]))`, on
    features permuted so that another dimension is pooled: `hw` pools over channels, `cw` over rows, `hc` over columns;
    each map has the two dimensions in its name.

    The batch norm's weight starts at 0 in `hw`, and at 1 in `cw` and `hc`, as in the authors' networks.

    Args:
        channels: C.
        kernel_size: side of the kernels, odd.
        gate: turns the logits of all three gates into factors; a gate with parameters has separate ones for each map.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Parameters: 3 (2 k^2 + 2) for kernel size k, plus the gates' parameters.

    Raises:
        InputError: `kernel_size` is even or below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels

        def spatial(norm_start: float) -> SpatialAttention:
            return SpatialAttention(
                channels, kernel_size=kernel_size, norm_start=norm_start, gate=gate, device=device, dtype=dtype
            )

        self.cw, self.hc, self.hw = spatial(1.0), spatial(1.0), spatial(0.0)

    def gate_values(self, x: Tensor) -> Tensor:
        """The mean of the three gates (N, C, H, W)."""
        cw_gate = self.cw.gate_values(x.transpose(1, 2)).transpose(1, 2)  # (N, C, 1, W), from (N, H, C, W)
        hc_gate = self.hc.gate_values(x.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)  # (N, C, H, 1), from (N, W, H, C)
        return (self.hw.gate_values(x) + cw_gate + hc_gate) / 3

    def forward(self, x: Tensor) -> Tensor:
        check_features(self, x)
        return x * self.gate_values(x).to(x.dtype)

    def extra_repr(self) -> str:
        return f"channels={self.channels}"
