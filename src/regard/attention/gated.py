"""The one idea of every attention module: compute gate logits, gate, apply."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from regard.attention.gates import Gate, parse_gate


class GatedAttention(nn.Module, ABC):
    """Base of the attention modules: `x * gate(logits(x))`.

    A module says in `logits` how it computes its gate logits, broadcastable to the features; the gate is any gate.

    Shape: (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(
        self,
        channels: int,
        *,
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.gate = parse_gate(gate).build(channels, device=device, dtype=dtype)

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Gate logits of the features `x` (N, C, H, W), broadcastable to them."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.logits(x))

    def extra_repr(self) -> str:
        return f"channels={self.channels}"
