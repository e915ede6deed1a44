"""The context of global context: a mean of the pixels, weighted by an attention over them.

Each pass over the features is a matrix product, for which torch has fast kernels on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regard.attention import functional
from regard.attention.kernels.combine import combine
from regard.attention.kernels.operation import Operation

_context = Operation(functional.context, lambda *_: True)


def _gradient(inputs: Sequence[Any], kept: Sequence[Tensor], dcontext: Tensor, dweights: Tensor) -> Any:
    x, key, bias = inputs
    (weights,) = kept
    shape = len(x), 1, *x.shape[2:]
    pixels, of_context = x.flatten(2), dcontext.to(x.dtype)[:, None]
    of_weights = torch.bmm(of_context, pixels)[:, 0] + dweights  # (N, P)
    of_logits = weights * (of_weights - (weights * of_weights).sum(1, keepdim=True))
    dkey = torch.bmm(pixels, of_logits.to(x.dtype)[:, :, None])[:, :, 0].sum(0)
    dx = combine(
        x,
        dcontext[:, :, None, None],
        weights.reshape(shape),
        key[None, :, None, None].expand(len(x), -1, 1, 1),
        of_logits.reshape(shape),
        False,
    )
    return dx, dkey.to(key.dtype), torch.zeros_like(bias)  # the softmax does not feel the bias


_context.differentiate(_gradient, kept=slice(1, 2), outputs=2)


def context(x: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """The context (N, C): the mean of the pixels weighted by `softmax_p(key x[p] + bias)`; key (C,), bias (1,)."""
    return _context(x, key, bias)[0].to(x.dtype)
