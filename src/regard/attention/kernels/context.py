"""The context of global context: a mean of the pixels, weighted by an attention over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regard.attention.kernels.combine import combine
from regard.attention.kernels.operation import Operation
from regard.attention.kernels.statistics import weighted_sum


def context_and_weights(x: Tensor, key: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The context (N, C, 1, 1), and the weights of the pixels, (N, 1, H, W)."""
    logits = weighted_sum(x, key[None, :, None, None].expand(x.shape[0], -1, 1, 1)) + bias
    weights = logits.flatten(1).softmax(1).reshape(logits.shape)
    return weighted_sum(x, weights), weights


_context = Operation(
    context_and_weights, lambda x, key, bias: x.dim() == 4 and key.shape == x.shape[1:2] and bias.shape == (1,)
)


def _gradient(
    inputs: Sequence[Any], kept: Sequence[Tensor], dcontext: Tensor, dweights: Tensor, g: Tensor | None = None
) -> Any:
    (x, key, bias), (weights,) = inputs, kept
    of_weights = weighted_sum(x, dcontext) + dweights
    of_logits = weights * (of_weights - (weights * of_weights).sum((2, 3), keepdim=True))
    dkey = weighted_sum(x, of_logits).sum((0, 2, 3))
    keys = key[None, :, None, None].expand(x.shape[0], -1, 1, 1)
    dx = combine(x, dcontext, weights, keys, of_logits, g=g, read=False)
    return dx, dkey.to(key.dtype), torch.zeros_like(bias)  # the softmax does not feel the bias


_context.differentiate(_gradient, kept=slice(1, 2), outputs=2)


def context(x: Tensor, key: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """x, and its context (N, C): the mean of the pixels weighted by `softmax_p(key x[p] + bias)`.

    Args:
        x: (N, C, H, W).
        key: (C,).
        bias: (1,).
    """
    x, (context, _) = _context.carry(x, key, bias)
    return x, context.flatten(1).to(x.dtype)
