"""Base classes of all attention modules: compute gate logits, gate, multiply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from regard.attention import kernels
from regard.attention.features import check_features
from regard.attention.gates import Gate, parse_gate


class AttentionModule(nn.Module):
    """Base of attention modules and their parts: parameters can be reset."""

    def reset_parameters(self) -> None:
        """Gives all parameters and buffers the values of a new module: after `to_empty`, say, of one on 'meta'.

        For a whole network call it through `model.apply`, which visits the layers of a module before the module.
        """
        for child in self.children():
            reset_parameters(child)
        self._start()

    def _start(self) -> None:
        """Sets the parameters whose initial values differ from those of their layers."""


def reset_parameters(module: nn.Module) -> None:
    """Gives a module, or else the layers in it, the parameters of a new one."""
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    for child in module.children():
        reset_parameters(child)


class GatedAttention(AttentionModule, ABC):
    """Base of the attention modules: `x * gate(logits(x))`.

    A module says in `logits` how it computes its gate logits, broadcastable to the features; the gate is any gate.
    Features keep their dtype, whatever the dtype of the gate.

    Args:
        channels: C of the features.
        gate: turns the logits into factors.
        gate_channels: how many channels the logits have, if not C: 1 for a gate of one map, say. A gate with
            parameters has its own for each.

    Shape: (N, C, H, W) -> (N, C, H, W).

    Raises:
        InputError: in a forward pass: features of another shape, dtype or device; see `check_features`.
    """

    def __init__(
        self,
        channels: int,
        *,
        gate: Gate | str = "sigmoid",
        gate_channels: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.gate = parse_gate(gate).build(gate_channels or channels, device=device, dtype=dtype)

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Gate logits of the features `x` (N, C, H, W), broadcastable to them."""

    def gate_values(self, x: Tensor) -> Tensor:
        """The factors that the features `x` (N, C, H, W) are multiplied with, broadcastable to them."""
        return self.gate(self.logits(x))

    def forward(self, x: Tensor) -> Tensor:
        check_features(self, x)
        return x * self.gate_values(x).to(x.dtype)

    def extra_repr(self) -> str:
        return f"channels={self.channels}"


class ChannelAttention(GatedAttention):
    """Base of the modules with one logit per channel, from statistics of the channels: by default, their means."""

    def statistics(self, x: Tensor) -> tuple[Tensor, ...]:
        """The features, for what follows, and statistics of them."""
        return x, kernels.channel_mean(x)

    @abstractmethod
    def channel_logits(self, *statistics: Any, **none: Any) -> Tensor:
        """Gate logits (N, C) of the statistics."""

    def logits(self, x: Tensor) -> Tensor:
        return self.channel_logits(*self.statistics(x)[1:])[:, :, None, None]

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features, and the factors (N, C, 1, 1) for them."""
        x, *statistics = self.statistics(x)
        return x, self.gate(self.channel_logits(*statistics)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        check_features(self, x)
        return kernels.scale(*self.factors(x))
