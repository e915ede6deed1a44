"""Base classes of attention modules, which check the features, compute gate logits, and multiply features and gate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from regard.attention import kernels
from regard.attention.gates import Gate, SubAttentionGate, parse_gate
from regard.errors import InputError


class AttentionModule(nn.Module):
    """Base of attention modules and their parts, with parameters that can be reset."""

    def reset_parameters(self) -> None:
        """Sets all parameters and buffers to the values of a new module, for example after `to_empty`.

        For a whole network call it through `model.apply`, which visits the layers of a module before the module.
        """
        for child in self.children():
            reset_parameters(child)
        self._start()

    def _start(self) -> None:
        """Sets the parameters whose initial values differ from the defaults of their layers."""


def reset_parameters(module: nn.Module) -> None:
    """Calls `reset_parameters` of a module or, if it has no such method, of the modules inside it."""
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    for child in module.children():
        reset_parameters(child)


def check_features(module: nn.Module, x: Tensor) -> None:
    """Raises InputError for features that the attention module `module` does not accept, before they reach a kernel.

    Features are (N, C, H, W) with a floating-point dtype, the `channels` of the module, and H and W of at least 1. They
    are on the device of its parameters and, outside autocast, have the dtype of at least one parameter outside gates.
    """
    if torch.jit.is_tracing() or not isinstance(x, Tensor):  # traced shapes are not numbers; proxies of torch.fx
        return
    kind, shape = type(module).__name__, tuple(x.shape)
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise InputError(f"{kind} takes features (N, C, H, W) with C, H and W of at least 1, not {shape}")
    if not x.is_floating_point():
        raise InputError(f"{kind} takes features of a floating-point dtype, not {x.dtype}; convert them first")
    channels = getattr(module, "channels", x.shape[1])
    if x.shape[1] != channels:
        raise InputError(f"{kind} was created for {channels} channels, and got features {shape}")
    if all(value.device == x.device and value.dtype == x.dtype for value in module.parameters()):
        return
    parameters = dict(module.named_parameters())
    for name, value in parameters.items():
        if value.device != x.device:
            raise InputError(f"{kind} has {name} on {value.device}, and got features on {x.device}; move one of them")
    dtypes = {value.dtype for name, value in parameters.items() if ".gate" not in f".{name}"}
    autocast = torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)
    if dtypes and x.dtype not in dtypes and not autocast:
        raise InputError(
            f"{kind} has parameters of {', '.join(sorted(map(str, dtypes)))}, and got features of {x.dtype}; "
            "convert one of them, or run under torch.autocast"
        )


class ProductAttention(AttentionModule, ABC):
    """Base of modules that multiply features (N, C, H, W) with the product of two gates."""

    channels: int

    @abstractmethod
    def factors(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The features, and two factors that broadcast to them."""

    def gate_values(self, x: Tensor) -> Tensor:
        """The product of both gates (N, C, H, W)."""
        _, first, second = self.factors(x)
        return first * second

    def forward(self, x: Tensor) -> Tensor:
        check_features(self, x)
        return kernels.scale(*self.factors(x))

    def extra_repr(self) -> str:
        return f"channels={self.channels}"


class GatedAttention(AttentionModule, ABC):
    """Base of attention modules: `x * gate(logits(x))`.

    A subclass implements `logits`, which computes gate logits broadcastable to the features. The output has the dtype
    of the features, whatever the dtype of the gate.

    Args:
        channels: C of the features.
        gate: turns the logits into factors.
        gate_channels: number of channels of the logits, if it is not C, for example 1 for a single map. A gate with
            parameters has separate ones for each of these channels.

    Shape: (N, C, H, W) -> (N, C, H, W).

    Raises:
        InputError: in a forward pass, features have another shape, dtype or device.
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
        """The factors that multiply the features `x` (N, C, H, W), broadcastable to them."""
        return self.gate(self.logits(x))

    def by_formula(self, x: Tensor) -> Tensor:
        """The output for features `x` (N, C, H, W), computed step by step."""
        return x * self.gate_values(x).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        check_features(self, x)
        return self.by_formula(x)

    def extra_repr(self) -> str:
        return f"channels={self.channels}"


class ChannelAttention(GatedAttention):
    """Base of modules that compute one logit per channel from channel statistics, by default from channel means."""

    def statistics(self, x: Tensor) -> tuple[Tensor, ...]:
        """The features, to be used in place of `x` from here on, and their statistics."""
        return x, kernels.channel_mean(x)

    @abstractmethod
    def channel_logits(self, *statistics: Any, **kwargs: Any) -> Tensor:
        """Gate logits (N, C) from the statistics."""

    def logits(self, x: Tensor) -> Tensor:
        return self.channel_logits(*self.statistics(x)[1:])[:, :, None, None]

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features, and the factors (N, C, 1, 1) that multiply them."""
        x, *statistics = self.statistics(x)
        return x, self.gate(self.channel_logits(*statistics)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        check_features(self, x)
        return kernels.scale(*self.factors(x))


class FusedAttention(GatedAttention):
    """Base of modules with one operation for statistics, gate and product, for gates that are products of sigmoids."""

    @abstractmethod
    def fused(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """The output by the operation, for the gate `functional.sigmoids(u, w, b)`; w, b: (order, gate_channels)."""

    def forward(self, x: Tensor) -> Tensor:
        check_features(self, x)
        if type(self.gate) is SubAttentionGate:
            return self.fused(x, self.gate.w.flatten(1), self.gate.b.flatten(1))
        if type(self.gate) is nn.Sigmoid:
            empty = x.new_empty(0, self.gate_channels)
            return self.fused(x, empty, empty)
        return self.by_formula(x)
