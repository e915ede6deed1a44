"""Shuffle attention and spatial group-wise enhance, each as one operation: statistics, gate and product.

The gradient of each is an operation too. Its kernels use the statistics from the forward pass; its formula recomputes
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from regard.attention import functional
from regard.attention.kernels.operation import Operation, formula_gradients


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
    """The gradients of x, scale, shift, w and b."""
    inputs = [x, scale, shift, local, w, b, eps, shuffle]
    dx, dscale, dshift, _, dw, db, *_ = formula_gradients(functional.shuffle_gate, inputs, [g])
    return dx, dscale, dshift, dw, db


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
    """The gradients of x, weight, bias, w and b."""
    dx, dweight, dbias, dw, db, _ = formula_gradients(functional.group_gate, [x, weight, bias, w, b, eps], [g])
    return dx, dweight, dbias, dw, db


_SHUFFLE_PARAMETERS = "scale c, shift c, local c, w kc, b kc"
_GROUP_PARAMETERS = "weight m, bias m, w km, b km"

shuffle_gate = Operation(functional.shuffle_gate, f"x nchw, {_SHUFFLE_PARAMETERS}", fused=True)
_shuffle_backward = Operation(
    shuffle_gate_backward,
    f"x nchw, g nchw, mean nc, rstd nc, {_SHUFFLE_PARAMETERS}",
    fused=True,
    like=lambda g, x, mean, rstd, scale, shift, local, w, b, *_: (x, scale, shift, w, b),
)
group_gate = Operation(functional.group_gate, f"x nchw, {_GROUP_PARAMETERS}", fused=True)
_group_backward = Operation(
    group_gate_backward,
    f"x nchw, g nchw, mean nc, centre nm, std nm, {_GROUP_PARAMETERS}",
    fused=True,
    like=lambda g, x, mean, centre, std, weight, bias, w, b, _: (x, weight, bias, w, b),
)


def _shuffle_gradient(inputs: Sequence[Any], statistics: Sequence[Tensor], g: Tensor) -> Any:
    x, *parameters = inputs
    dx, dscale, dshift, dw, db = _shuffle_backward(g, x, *statistics, *parameters)
    return dx, dscale, dshift, None, dw, db, None, None


def _group_gradient(inputs: Sequence[Any], statistics: Sequence[Tensor], g: Tensor) -> Any:
    x, *parameters = inputs
    return *_group_backward(g, x, *statistics, *parameters), None


shuffle_gate.differentiate(_shuffle_gradient, saved=slice(1, 3))
_shuffle_backward.differentiate(outputs=5)
group_gate.differentiate(_group_gradient, saved=slice(1, 4))
_group_backward.differentiate(outputs=5)
