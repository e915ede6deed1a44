"""A context of the whole image, the mean of all places weighted by an attention over them: global context.

In reads and writes of the features, scaled by factors from the context: forward 3 and 1, backward 5 and 1; with the
context added: forward 3 and 1, backward 4 and 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from regard.attention.ops.autograd import again, laid_out, like, small
from regard.attention.ops.channel import Link, Scale
from regard.attention.ops.choice import kernels_for


def context(x: Tensor, key: Tensor, key_bias: Tensor) -> Tensor:
    """The context (N, C) of `x`: the mean of the places weighted by `softmax_p(key x[p] + key_bias)`.

    Args:
        x: (N, C, H, W).
        key: (C,).
        key_bias: (1,).
    """
    logits = F.conv2d(x, key[None, :, None, None].to(x.dtype), key_bias.to(x.dtype))  # (N, 1, H, W)
    attention = logits.flatten(1).softmax(1)  # (N, P)
    return torch.einsum("ncp,np->nc", x.flatten(2), attention.to(x.dtype))


def context_scaled(x: Tensor, key: Tensor, key_bias: Tensor, factors: Callable[[Tensor], Tensor]) -> Tensor:
    """`x * factors(context(x))`, in the dtype of `x`; `factors` makes (N, C, 1, 1) of (N, C)."""
    kernels = kernels_for(x, (key, x.shape[1:2]), (key_bias, (1,)))
    if kernels is None:
        return x * factors(context(x, key, key_bias)).to(x.dtype)
    link = Link()
    found, carried = _Context.apply(laid_out(x), key, key_bias, kernels, link)
    return Scale.apply(carried, factors(found).expand(*x.shape[:2], 1, 1), kernels, link)


def context_added(x: Tensor, key: Tensor, key_bias: Tensor, terms: Callable[[Tensor], Tensor]) -> Tensor:
    """`x + terms(context(x))`, in the dtype of `x`; `terms` makes (N, C, 1, 1) of (N, C)."""
    kernels = kernels_for(x, (key, x.shape[1:2]), (key_bias, (1,)))
    if kernels is None:
        return x + terms(context(x, key, key_bias)).to(x.dtype)
    found, carried = _Context.apply(laid_out(x), key, key_bias, kernels, Link())
    return carried + terms(found).to(x.dtype)


class _Context(Function):
    """x -> its context, and x; see `Link`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, key: Tensor, key_bias: Tensor, kernels: Any, link: Link) -> Any:
        logits = kernels.over_channels(x, small(key, x, *x.shape[:2]))  # (N, P)
        attention = torch.softmax(logits + small(key_bias, x), 1)
        ctx.save_for_backward(x, key, key_bias, attention)
        ctx.kernels, ctx.link = kernels, link
        return kernels.over_places(x, attention).to(x.dtype), x

    @staticmethod
    def backward(ctx: Any, dcontext: Tensor, g: Tensor) -> Any:
        x, key, key_bias, attention = ctx.saved_tensors
        if ctx.link.whole or torch.is_grad_enabled():
            dx, dkey, dbias = again(context, [x, key, key_bias], [dcontext])
            return g + dx if dx is not None else g, dkey, dbias, None, None
        kernels, dcontext = ctx.kernels, small(dcontext, x)
        of_attention = kernels.over_channels(x, dcontext)  # (N, P)
        of_logits = attention * (of_attention - (attention * of_attention).sum(1, keepdim=True))
        dx = dkey = None
        if ctx.needs_input_grad[1]:
            dkey = kernels.over_places(x, of_logits).sum(0).to(key.dtype)
        if ctx.needs_input_grad[0]:
            factors, key = ctx.link.taken(x, x.shape[:2]), small(key, x, *x.shape[:2])
            dx = kernels.context_combine(like(g, x), factors, dcontext, attention, key, of_logits)
        # The softmax does not feel the bias.
        return dx, dkey, torch.zeros_like(key_bias), None, None
