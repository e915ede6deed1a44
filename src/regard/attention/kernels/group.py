"""The gate of spatial group-wise enhance, with its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from regard.attention import functional
from regard.attention.kernels.operation import Operation, by_formula


def _fits(x: Tensor, weight: Tensor, bias: Tensor, w: Tensor, b: Tensor, eps: float) -> bool:
    groups = weight.shape
    return (
        x.dim() == 4
        and len(groups) == 1
        and bias.shape == groups
        and w.shape == b.shape == (len(w), *groups)
        and x.shape[1] % groups[0] == 0
    )


group_gate = Operation(functional.group_gate, _fits, fused=True)


def group_gate_backward(
    g: Tensor,
    x: Tensor,
    mean: Tensor,
    centre: Tensor,
    std: Tensor,
    weight: Tensor,
    bias: Tensor,
    w: Tensor,
    b: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias, w and b; here without the statistics, which kernels do not compute again."""
    dx, dweight, dbias, dw, db = by_formula(functional.group_gate, [x, weight, bias, w, b, eps], [g])[:5]
    return dx, dweight, dbias, dw, db


_backward = Operation(
    group_gate_backward,
    lambda g, x, mean, centre, std, *parameters: _fits(x, *parameters),
    fused=True,
    like=lambda g, x, mean, centre, std, *parameters: (x, *parameters[:4]),
)


def _gradient(inputs: Sequence[Any], kept: Sequence[Tensor], g: Tensor) -> Any:
    x, weight, bias, w, b, eps = inputs
    dx, *small = _backward(g, x, *kept, weight, bias, w, b, eps)
    dweight, dbias, dw, db = (d.to(p.dtype) for d, p in zip(small, (weight, bias, w, b), strict=True))
    return dx, dweight, dbias, dw, db, None


group_gate.differentiate(_gradient, kept=slice(1, 4))
_backward.differentiate(outputs=5)
