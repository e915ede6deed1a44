"""The gate of shuffle attention, with its statistics and the channel shuffle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from regard.attention import functional
from regard.attention.kernels.operation import Operation, by_formula


def _fits(
    x: Tensor, scale: Tensor, shift: Tensor, local: Tensor, w: Tensor, b: Tensor, eps: float, shuffle: bool
) -> bool:
    channels = x.shape[1:2]
    return (
        x.dim() == 4
        and scale.shape == shift.shape == local.shape == channels
        and w.shape == b.shape == (len(w), *channels)
        and not (shuffle and channels[0] % 2)
    )


shuffle_gate = Operation(functional.shuffle_gate, _fits, fused=True)


def shuffle_gate_backward(
    g: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    scale: Tensor,
    shift: Tensor,
    local: Tensor,
    w: Tensor,
    b: Tensor,
    eps: float,
    shuffle: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, scale, shift, w and b; here without the statistics, which kernels do not compute again."""
    dx, dscale, dshift, _, dw, db = by_formula(
        functional.shuffle_gate, [x, scale, shift, local, w, b, eps, shuffle], [g]
    )[:6]
    return dx, dscale, dshift, dw, db


_backward = Operation(
    shuffle_gate_backward,
    lambda g, x, mean, rstd, *parameters: _fits(x, *parameters),
    fused=True,
    like=lambda g, x, mean, rstd, scale, shift, local, w, b, *_: (x, scale, shift, w, b),
)


def _gradient(inputs: Sequence[Any], kept: Sequence[Tensor], g: Tensor) -> Any:
    x, scale, shift, local, w, b, eps, shuffle = inputs
    dx, *small = _backward(g, x, *kept, scale, shift, local, w, b, eps, shuffle)
    dscale, dshift, dw, db = (d.to(p.dtype) for d, p in zip(small, (scale, shift, w, b), strict=True))
    return dx, dscale, dshift, None, dw, db, None, None


shuffle_gate.differentiate(_gradient, kept=slice(1, 3))
_backward.differentiate(outputs=5)
