"""Gates of one map a group of channels, from how alike each place is to the group's mean: spatial group-wise enhance.

Statistics, map, gate and product of a group are taken together, while it lies in the cache. In reads and writes of the
features: forward 1 and 1, backward 2 and 1; that is 2.5 copies, the floor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from regard.attention.ops.autograd import again, laid_out, like, small
from regard.attention.ops.choice import kernels_for
from regard.attention.ops.plane import gate_parameters, product_of_sigmoids

EPS = 1e-5


def group_logits(x: Tensor, weight: Tensor, bias: Tensor, eps: float = EPS) -> Tensor:
    """Gate logits (N, G, H, W) of `group_gated`."""
    n, c, h, w = x.shape
    groups = len(weight)
    grouped = x.reshape(n, groups, c // groups, h, w)
    maps = (grouped * grouped.mean((3, 4), keepdim=True)).sum(2)  # (N, G, H, W)
    centred = maps - maps.mean((2, 3), keepdim=True)
    variance = centred.square().sum((2, 3), keepdim=True) / (h * w - 1 if h * w > 1 else 1)
    return weight[:, None, None] * (centred / (_deviation(variance) + eps)) + bias[:, None, None]


def _deviation(variance: Tensor) -> Tensor:
    """The root of `variance`; its slope at 0 is taken as 0, so that constant maps have a gradient."""
    varied = variance > 0
    return torch.where(varied, torch.where(varied, variance, 1).sqrt(), 0)


def group_gated(x: Tensor, weight: Tensor, bias: Tensor, gate: nn.Module, *, eps: float = EPS) -> Tensor:
    """`x * gate(weight * t + bias)`, with t a normalised map for each of G groups of channels.

    The map of a group is `s[p] = sum_c mean_p(x[c]) x[c, p]`, and `t = (s - mean(s)) / (std(s) + eps)`, with H W - 1 in
    the denominator of the variance.

    Args:
        x: (N, C, H, W).
        weight, bias: (G,), G a divisor of C.
        gate: of G channels.
        eps: added to the standard deviation.
    """
    groups = len(weight)
    kernels = kernels_for(x, (weight, (groups,)), (bias, (groups,)))
    if kernels is not None and x.shape[1] % groups:
        kernels = None
    parameters = gate_parameters(gate, groups, x) if kernels is not None else None
    if kernels is None or parameters is None:
        return _scaled(x, gate(group_logits(x, weight, bias, eps)))
    return _GroupGate.apply(laid_out(x), weight, bias, *parameters, eps, kernels)


def _scaled(x: Tensor, factors: Tensor) -> Tensor:
    """`x` times factors (N, G, H, W), each for its group of channels."""
    n, c, h, w = x.shape
    grouped = x.reshape(n, factors.shape[1], c // factors.shape[1], h, w)
    return (grouped * factors[:, :, None].to(x.dtype)).reshape(x.shape)


class _GroupGate(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, w: Tensor, b: Tensor, eps: float, kernels: Any
    ) -> Tensor:
        y, *statistics = kernels.group_gate_forward(x, *(small(p, x) for p in (weight, bias, w, b)), eps)
        ctx.save_for_backward(x, weight, bias, w, b, *statistics)
        ctx.eps, ctx.kernels = eps, kernels
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight, bias, w, b, *statistics = ctx.saved_tensors
        if torch.is_grad_enabled():

            def formula(x: Tensor, weight: Tensor, bias: Tensor, w: Tensor, b: Tensor) -> Tensor:
                return _scaled(x, product_of_sigmoids(group_logits(x, weight, bias, ctx.eps), w, b))

            return *again(formula, [x, weight, bias, w, b], [g]), None, None
        parameters = [small(p, x) for p in (weight, bias, w, b)]
        dx, *found = ctx.kernels.group_gate_backward(like(g, x), x, *statistics, *parameters, ctx.eps)
        summed = [d.sum(0).reshape(p.shape).to(p.dtype) for d, p in zip(found, (weight, bias, w, b), strict=True)]
        return dx, *summed, None, None
