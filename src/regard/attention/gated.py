"""Base classes of all attention modules: check the features, compute gate logits, gate, multiply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from regard.attention import kernels
from regard.attention.gates import Gate, SubAttentionGate, parse_gate
from regard.errors import InputError


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


def check_features(module: nn.Module, x: Tensor) -> None:
    """Raises an error for features that attention module `module` was not made for, before they reach a kernel.

    Features are (N, C, H, W), in a floating-point dtype, of the `channels` of the module, with H and W of at least 1.
    They have the device of all its parameters and, outside of autocast, the dtype of some; that of a gate may differ.

    Raises:
        InputError: they are something else.
    """
    if torch.jit.is_tracing() or not isinstance(x, Tensor):  # shapes are no numbers then; or a proxy of torch.fx
        return
    kind, shape = type(module).__name__, tuple(x.shape)
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise InputError(f"{kind} takes features (N, C, H, W) with C, H and W of at least 1, not {shape}")
    if not x.is_floating_point():
        raise InputError(f"{kind} takes features of a floating-point dtype, not {x.dtype}; convert them first")
    channels = getattr(module, "channels", x.shape[1])
    if x.shape[1] != channels:
        raise InputError(f"{kind} was made for features of {channels} channels, and got {x.shape[1]}: {shape}")
    if all(value.device == x.device and value.dtype == x.dtype for value in module.parameters()):
        return
    parameters = dict(module.named_parameters())
    for name, value in parameters.items():
        if value.device != x.device:
            raise InputError(f"{kind} has {name} on {value.device}, and got features on {x.device}; move one of them")
    dtypes = {value.dtype for name, value in parameters.items() if ".gate" not in f".{name}"}
    autocasts = torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)
    if dtypes and x.dtype not in dtypes and not autocasts:
        raise InputError(
            f"{kind} has parameters of {', '.join(sorted(map(str, dtypes)))}, and got features of {x.dtype}; "
            "convert one of them, or run under torch.autocast"
        )


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
        self.channels, self.gate_channels = channels, gate_channels or channels
        self.gate = parse_gate(gate).build(self.gate_channels, device=device, dtype=dtype)

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


class FusedAttention(GatedAttention):
    """Base of the modules for which one operation computes statistics, gate and product.

    It takes gates that are products of sigmoids; with any other the module is its formula.
    """

    @abstractmethod
    def fused(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """The output, with the gate `functional.sigmoids` of w and b (order, channels of the logits)."""

    def by_formula(self, x: Tensor) -> Tensor:
        """The output, with any gate."""
        return x * self.gate_values(x).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        check_features(self, x)
        if type(self.gate) is SubAttentionGate:
            return self.fused(x, self.gate.w.flatten(1), self.gate.b.flatten(1))
        if type(self.gate) is nn.Sigmoid:
            none = x.new_empty(0, self.gate_channels)
            return self.fused(x, none, none)
        return self.by_formula(x)
