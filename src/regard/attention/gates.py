"""Gates: functions that turn gate logits `u` into the factors that multiply the features.

A gate is specified by an object such as `Sigmoid()` or `SubAttention(order)`, or by a name, and built for a number of
channels, because one specification serves modules of every width in a network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from regard.errors import InputError


@runtime_checkable
class Gate(Protocol):
    """A specification that builds the gate module of one attention module.

    The gate module maps gate logits, which broadcast to (N, C, H, W) with C = `channels`, to factors of the same shape.
    """

    def build(
        self, channels: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> nn.Module:
        """The gate module for logits with `channels` channels."""
        ...


@dataclass(frozen=True)
class Sigmoid:
    """The plain gate, `sigmoid(u)`, with values in (0, 1) and no parameters."""

    def build(
        self, channels: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> nn.Module:
        return nn.Sigmoid()


@dataclass(frozen=True)
class HardSigmoid:
    """The piecewise linear gate, `min(max(u + 3, 0), 6) / 6`, with values in [0, 1] and no parameters."""

    def build(
        self, channels: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> nn.Module:
        return nn.Hardsigmoid()


@dataclass(frozen=True)
class SubAttention:
    """The high-order sub-attention gate of LSAS (arXiv 2305.05200, section 3).

    `sigmoid(u[0]) * sigmoid(u[1]) * … * sigmoid(u[order])` with `u[0] = u` and `u[i + 1] = w[i] * u[i] + b[i]`; `w` and
    `b` are learned, one value per channel and order. Order 0 is the plain gate; the published LSAS has order 1.

    Raises:
        InputError: `order` is not an integer in [0, 1000].
    """

    order: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.order, int) or isinstance(self.order, bool) or not 0 <= self.order <= 1000:
            raise InputError(f"the order of a sub-attention gate is an integer from 0 to 1000, not {self.order!r:.40}")

    def build(
        self, channels: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> nn.Module:
        if self.order == 0:
            return Sigmoid().build(channels)
        return SubAttentionGate(channels, self.order, device=device, dtype=dtype)


class SubAttentionGate(nn.Module):
    """The module that `SubAttention` builds.

    Shape: logits (N, C, H, W), (N, C, 1, 1) or (N, C, 1, W) … -> the same shape, values in (0, 1).
    Parameters: `w`, `b`: (order, C, 1, 1), starting at 0.5 and -0.5.
    """

    def __init__(
        self,
        channels: int,
        order: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.order = order
        self.w = nn.Parameter(torch.empty(order, channels, 1, 1, device=device, dtype=dtype))
        self.b = nn.Parameter(torch.empty(order, channels, 1, 1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.w, 0.5)
        nn.init.constant_(self.b, -0.5)

    def forward(self, logits: Tensor) -> Tensor:
        factors = torch.sigmoid(logits)
        for k in range(self.order):
            logits = self.w[k] * logits + self.b[k]  # (C, 1, 1) each
            factors = factors * torch.sigmoid(logits)
        return factors

    def extra_repr(self) -> str:
        return f"channels={self.w.shape[1]}, order={self.order}"


def parse_gate(gate: Gate | str) -> Gate:
    """Returns the gate with this name: 'sigmoid', 'hard-sigmoid', 'sub-attention' (order 1) or 'sub-attention-K'.

    Returns a specification unchanged.

    Raises:
        InputError: the name is unknown, or `gate` is neither a name nor a specification.
    """
    if isinstance(gate, str):
        if gate == "sigmoid":
            return Sigmoid()
        if gate == "hard-sigmoid":
            return HardSigmoid()
        match = re.fullmatch(r"sub-attention(?:-(\d{1,3}))?", gate)
        if match:
            return SubAttention(int(match[1] or 1))
        raise InputError(
            f"unknown gate {gate!r}; known: sigmoid, hard-sigmoid, sub-attention (order 1), sub-attention-K (order K)"
        )
    if isinstance(gate, type) or not isinstance(gate, Gate):
        raise InputError(f"a gate is a name or a specification such as SubAttention(order=1), not {gate!r}")
    return gate
