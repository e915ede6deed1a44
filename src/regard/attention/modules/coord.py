"""Coordinate attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import kernels
from regard.attention.gated import ProductAttention
from regard.attention.gates import Gate, parse_gate
from regard.attention.modules.sizes import hidden_units
from regard.attention.registry import register


@register("coord")
class CoordinateAttention(ProductAttention):
    """Coordinate attention (arXiv 2103.02907, equations 4 to 9).

    `x * gate_h(u_h) * gate_w(u_w)` with one logit per channel and row, `u_h`, and one per channel and column, `u_w`.
    The means of the rows and of the columns are concatenated and go through
    `f = h_swish(norm(F1 [mean_w(x), mean_h(x)]))`; `u_h` is `F_h f` of the row part, `u_w` is `F_w f` of the column
    part. F1, F_h and F_w are 1 x 1 convolutions with biases, `h_swish(v) = v min(max(v + 3, 0), 6) / 6`.

    The convolutions start normal with variance 2 / (channels out), their biases at 0, as in the authors' network.

    Args:
        channels: C.
        reduction: the hidden layer has `max(C // reduction, 8)` channels.
        gate: turns both logits into factors; a gate with parameters has separate ones for rows and columns.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Parameters: 3 C M + 3 M + 2 C for M hidden channels, plus the gates' parameters.

    Raises:
        InputError: `reduction` is below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 32,
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        hidden = hidden_units(channels, reduction, least=8)
        self.conv1 = nn.Conv1d(channels, hidden, 1, device=device, dtype=dtype)
        self.bn1 = nn.BatchNorm1d(hidden, device=device, dtype=dtype)
        self.conv_h = nn.Conv1d(hidden, channels, 1, device=device, dtype=dtype)
        self.conv_w = nn.Conv1d(hidden, channels, 1, device=device, dtype=dtype)
        self.gate_h = parse_gate(gate).build(channels, device=device, dtype=dtype)
        self.gate_w = parse_gate(gate).build(channels, device=device, dtype=dtype)
        self._start()

    def _start(self) -> None:
        for conv in (self.conv1, self.conv_h, self.conv_w):
            nn.init.normal_(conv.weight, std=math.sqrt(2 / conv.out_channels))
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The features, the gate of each row (N, C, H, 1) and of each column (N, C, 1, W)."""
        x, rows, columns = kernels.strip_means(x)
        strips = torch.cat((rows[:, :, :, 0], columns[:, :, 0]), dim=2)  # (N, C, H + W)
        mixed = F.hardswish(self.bn1(self.conv1(strips)))
        height = rows.shape[2]
        row_logits, column_logits = self.conv_h(mixed[:, :, :height]), self.conv_w(mixed[:, :, height:])
        return x, self.gate_h(row_logits[:, :, :, None]), self.gate_w(column_logits[:, :, None])
