"""Gates whose logits are linear in the plane's mean, or in its own normalised values: shuffle attention.

Both are one expression, `x * gate(a * x + c)` with a and c a number a plane, a = 0 where the mean decides. A plane's
statistics and product are taken together, while it lies in the cache, and the channel shuffle is where the product is
written. In reads and writes of the features: forward 1 and 1, backward 2 and 1; that is 2.5 copies, the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from regard.attention.gates import SubAttentionGate
from regard.attention.ops.autograd import again, laid_out, like, small
from regard.attention.ops.choice import kernels_for

EPS = 1e-5  # of torch's group norm


def plane_logits(x: Tensor, scale: Tensor, shift: Tensor, local: Tensor, eps: float = EPS) -> Tensor:
    """Gate logits (N, C, H, W) of `plane_gated`."""
    mean = x.mean((2, 3), keepdim=True)
    centred = x - mean
    normalised = centred * (centred.square().mean((2, 3), keepdim=True) + eps).rsqrt()
    t = torch.where(local[:, None, None], normalised, mean)
    return scale[:, None, None] * t + shift[:, None, None]


def plane_gated(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    local: Tensor,
    gate: nn.Module,
    *,
    eps: float = EPS,
    shuffle: bool = False,
    logits: Callable[[Tensor], Tensor] | None = None,
    made_from: Iterable[Tensor] = (),
) -> Tensor:
    """`x * gate(scale * t + shift)`, with t the normalised plane where `local`, else the mean of the plane.

    Args:
        x: (N, C, H, W).
        scale, shift: (C,).
        local: (C,), bool.
        gate: of C channels.
        eps: added to the variance.
        shuffle: whether to shuffle the channels in two halves: channel j C / 2 + i becomes channel 2 i + j.
        logits: a shorter way to the same logits for the plain formula, where the caller knows one.
        made_from: the parameters that `scale` was computed from. They are saved for the backward pass, which fails if
            they have changed in place, as that of the formula does.
    """
    channels = x.shape[1:2]
    kernels = kernels_for(x, *((value, channels) for value in (scale, shift, local)))
    if shuffle and kernels is not None and x.shape[1] % 2:
        kernels = None
    parameters = gate_parameters(gate, x.shape[1], x) if kernels is not None else None
    if kernels is None or parameters is None:
        u = logits(x) if logits is not None else plane_logits(x, scale, shift, local, eps)
        gated = x * gate(u).to(x.dtype)
        return F.channel_shuffle(gated, 2) if shuffle else gated
    watched = [value.detach() for value in made_from]
    return _PlaneGate.apply(laid_out(x), scale, shift, *parameters, local, eps, shuffle, kernels, *watched)


def gate_parameters(gate: nn.Module, channels: int, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """w and b (K, C) of a gate that kernels know: sigmoid is sub-attention of order 0.

    None for any other gate, and for one of other channels or on another device than the features x.
    """
    if type(gate) is nn.Sigmoid:
        return x.new_empty(0, channels), x.new_empty(0, channels)
    if type(gate) is SubAttentionGate:
        w, b = gate.w.flatten(1), gate.b.flatten(1)
        fits = all(value.shape == (gate.order, channels) and value.device == x.device for value in (w, b))
        return (w, b) if fits else None
    return None


def product_of_sigmoids(u: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The gate of these parameters, on logits (N, C, H, W)."""
    factors = torch.sigmoid(u)
    for wk, bk in zip(w, b, strict=True):  # (C,)
        u = wk[:, None, None] * u + bk[:, None, None]
        factors = factors * torch.sigmoid(u)
    return factors


class _PlaneGate(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        w: Tensor,
        b: Tensor,
        local: Tensor,
        eps: float,
        shuffle: bool,
        kernels: Any,
        *watched: Tensor,
    ) -> Tensor:
        local = local.contiguous()
        y, mean, rstd = kernels.plane_gate_forward(
            x, *(small(p, x) for p in (scale, shift)), local, *(small(p, x) for p in (w, b)), eps, shuffle
        )
        ctx.save_for_backward(x, scale, shift, w, b, local, mean, rstd, *watched)
        ctx.eps, ctx.shuffle, ctx.kernels = eps, shuffle, kernels
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, scale, shift, w, b, local, mean, rstd, *watched = ctx.saved_tensors
        no_gradient = [None] * (4 + len(watched))
        if torch.is_grad_enabled():

            def formula(x: Tensor, scale: Tensor, shift: Tensor, w: Tensor, b: Tensor) -> Tensor:
                gated = x * product_of_sigmoids(plane_logits(x, scale, shift, local, ctx.eps), w, b).to(x.dtype)
                return F.channel_shuffle(gated, 2) if ctx.shuffle else gated

            return *again(formula, [x, scale, shift, w, b], [g]), *no_gradient
        dx, *of_parameters = ctx.kernels.plane_gate_backward(
            like(g, x),
            x,
            mean,
            rstd,
            *(small(p, x) for p in (scale, shift)),
            local,
            *(small(p, x) for p in (w, b)),
            ctx.shuffle,
        )
        summed = [d.sum(0).to(p.dtype) for d, p in zip(of_parameters, (scale, shift, w, b), strict=True)]
        summed[2:] = [d.reshape(p.shape) for d, p in zip(summed[2:], (w, b), strict=True)]
        return dx, *summed, *no_gradient
