"""Activation-based attention maps."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from regard.errors import InputError, unknown

Reduce = Literal["mean", "sum", "max"]

_CHUNK = 2**19  # elements that stay in a processor's cache


def activation_map(features: Tensor, power: float = 2, reduce: Reduce = "mean") -> Tensor:
    """The attention map of a layer: its activations to a power, reduced over the channels.

    `mean_c |A|^power`, or `sum_c`, or `max_c`. Source: "Paying More Attention to Attention" (Attention Transfer, arXiv
    1612.03928), section 3.1; its code takes the mean at power 2.

    Differentiable, twice as well, and under the transforms of `torch.func`. Besides the features themselves, which the
    network keeps for its backward, nothing of their size is kept between forward and backward.

    Args:
        features: (N, C, H, W), floating point, in any memory format.
        power: at least 1.
        reduce: "mean", "sum" or "max".

    Returns:
        (N, H, W), at least 0; float32 for half-precision features, otherwise of the features' dtype.

    Raises:
        InputError: features of another shape or dtype, a power below 1, an unknown `reduce`.
    """
    if not isinstance(features, Tensor) or features.ndim != 4 or not features.is_floating_point():
        what = f"{features.dtype} {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise InputError(f"features are {what}; expected a floating-point tensor (N, C, H, W)")
    check_power(power, reduce)
    if torch.compiler.is_compiling():  # the compiler fuses the plain formula by itself
        return reference(features, power, reduce)
    if reduce == "max":  # the largest |A| is that of the largest or of the smallest A
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        return torch.maximum(wide.amax(1), -wide.amin(1)) ** power
    in_graph = torch.is_grad_enabled() and features.requires_grad
    total: Tensor = _PowerSum.apply(features, power) if in_graph else _power_sum(features, power)
    return total / features.shape[1] if reduce == "mean" else total


def check_power(power: float, reduce: Reduce) -> None:
    """Raises InputError unless these are a power and a reduction of `activation_map`."""
    if not 1 <= power < torch.inf:
        raise InputError(f"power {power}; expected a finite number of at least 1")
    if reduce not in ("mean", "sum", "max"):
        raise unknown("reduce", reduce, ("mean", "sum", "max"))


def reference(features: Tensor, power: float, reduce: Reduce) -> Tensor:
    """The formula of `activation_map`, plainly."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    powers = wide.abs() ** power  # (N, C, H, W)
    if reduce == "max":
        return powers.amax(1)
    return powers.mean(1) if reduce == "mean" else powers.sum(1)


class _PowerSum(torch.autograd.Function):
    """`sum_c |A|^p`; holds nothing but A for its backward.

    The norm `(sum_c |A|^p)^(1/p)` would do in the forward, but its derivatives do not exist where all channels are 0,
    which after a ReLU is common; those of the sum do.
    """

    @staticmethod
    def forward(features: Tensor, power: float) -> Tensor:
        return _power_sum(features, power)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        features, ctx.power = inputs
        ctx.save_for_backward(features)
        ctx.save_for_forward(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        scaled = (ctx.power * gradient).to(features.dtype).unsqueeze(1)  # (N, 1, H, W)
        return scaled * _signed_power(features, ctx.power - 1), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        (features,) = ctx.saved_tensors
        dtype = torch.promote_types(features.dtype, torch.float32)
        return (ctx.power * _signed_power(features, ctx.power - 1) * tangent).sum(1, dtype=dtype)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], features: Tensor, power: float) -> tuple[Tensor, int]:
        batch = features.movedim(in_dims[0], 0)  # (B, N, C, H, W): the batch goes with the images
        total: Tensor = _PowerSum.apply(batch.flatten(0, 1), power)
        return total.unflatten(0, batch.shape[:2]), 0


def _signed_power(features: Tensor, power: float) -> Tensor:
    """`sign(A) |A|^power`, without a copy where it is A itself."""
    if power == 1:
        return features
    if power == 0:
        return features.sign()
    if power % 2 == 1:
        return features**power
    return features.sign() * features.abs() ** power


def _power_sum(features: Tensor, power: float) -> Tensor:
    """`sum_c |A|^p`, (N, H, W)."""
    with torch.autocast(features.device.type, enabled=False):  # it would copy half-precision features
        return (_in_parts if features.device.type == "cpu" else _in_one_pass)(features, power)


def _in_one_pass(features: Tensor, power: float) -> Tensor:
    """By a kernel that reads the features once, and on a processor is slow."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    return torch.linalg.vector_norm(features, power, dim=1, dtype=dtype) ** power


def _in_parts(features: Tensor, power: float) -> Tensor:
    """A few images at a time, so that what is made of them stays in the cache."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    step = max(1, _CHUNK // max(1, math.prod(features.shape[1:])))
    return torch.cat([_powers(part.to(dtype), power).sum(1) for part in features.split(step)])


def _powers(part: Tensor, power: float) -> Tensor:
    """`|A|^power`; squares of squares are several times as fast as powers."""
    if power == 2:
        return part.square()
    if power == 4:
        return part.square().square()
    return part**power if power % 2 == 0 else part.abs() ** power
