"""Statistics of features: means, variances and maxima over channels, pixels, rows and columns, and weighted means.

The gradient of `channel_mean` is a view of its few values, which autograd adds to other gradients of the features. The
gradients of the other functions have a value for every element. These functions return the features too; if the caller
uses the returned features, one pass computes their gradient, including the gradients from later operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regard.attention import functional
from regard.attention.kernels.combine import combine
from regard.attention.kernels.operation import Operation


def channel_mean(x: Tensor) -> Tensor:
    """The mean of each channel of features x (N, C, H, W): (N, C), in their dtype."""
    return _channels(x, False, False)[0].to(x.dtype)


def channel_mean_variance(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, mean and variance (with H W - 1 in the denominator; 0 for one pixel) of each channel, (N, C), in its dtype."""
    x, (mean, variance, _, _) = _channels.pass_through(x, True, False)
    return x, mean.to(x.dtype), variance.to(x.dtype)


def channel_mean_max(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, mean and maximum of each channel, (N, C), in its dtype. The gradient of a maximum goes to its first pixel."""
    x, (mean, _, top, _) = _channels.pass_through(x, False, True)
    return x, mean.to(x.dtype), top.to(x.dtype)


def pixel_mean_max(x: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, mean and maximum over the channels of `x * f` with f (N, C, 1, 1): (N, 1, H, W) each, in its dtype."""
    x, (mean, top, _) = _pixels.pass_through(x, f)
    return x, mean.to(x.dtype), top.to(x.dtype)


def strip_means(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, the means of the rows (N, C, H, 1) and of the columns (N, C, 1, W) of each channel, in its dtype."""
    x, (rows, columns) = _strips.pass_through(x)
    return x, rows.to(x.dtype), columns.to(x.dtype)


def context(x: Tensor, key: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """x, and the mean (N, C) of its pixels p with the weights `softmax_p(key x[p] + bias)`; key: (C,), bias: (1,)."""
    x, (context, _) = _context.pass_through(x, key, bias)
    return x, context.flatten(1).to(x.dtype)


def context_and_weights(x: Tensor, key: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The context (N, C, 1, 1), and the weights of the pixels, (N, 1, H, W)."""
    logits = _weighted_sum(x, _expand_key(key, x)) + bias
    weights = logits.flatten(1).softmax(1).reshape(logits.shape)
    return _weighted_sum(x, weights), weights


def _expand_key(key: Tensor, x: Tensor) -> Tensor:
    """(C,) -> (N, C, 1, 1)."""
    return key[None, :, None, None].expand(x.shape[0], -1, 1, 1)


_channels = Operation(functional.channel_statistics, "x nchw")
_pixels = Operation(functional.pixel_statistics, "x nchw, f nc11")
_strips = Operation(functional.strip_means, "x nchw")
_weighted_sum = Operation(functional.weighted_sum, "x nchw, f nCHW")
_context = Operation(context_and_weights, "x nchw, key c, bias 1")


def _channel_gradient(
    inputs: Sequence[Any],
    saved: Sequence[Tensor],
    dmean: Tensor,
    dvariance: Tensor,
    dtop: Tensor,
    g: Tensor | None = None,
) -> Any:
    (x, variance, maximum), (mean, *_, where) = inputs, saved
    pixels = x.shape[2] * x.shape[3]
    constant, slope = dmean[:, :, None, None] / pixels, None
    if not variance and not maximum:
        return constant.to(x.dtype).expand(x.shape), None, None
    if variance:
        slope = dvariance[:, :, None, None] * (2 / max(pixels - 1, 1))
        constant = constant - slope * mean[:, :, None, None]
    peak = {"where": where, "peak": dtop} if maximum else {}
    return combine(x, slope, c=constant, g=g, read=variance, **peak), None, None


def _pixel_gradient(
    inputs: Sequence[Any], saved: Sequence[Tensor], dmean: Tensor, dtop: Tensor, g: Tensor | None = None
) -> Any:
    x, f = inputs
    (where,), mean = saved, dmean / x.shape[1]
    dx = combine(x, f, mean, g=g, where=where, peak=f.expand_as(x).gather(1, where) * dtop, read=False)
    flat = x.shape[0], x.shape[2] * x.shape[3], 1
    df = _weighted_sum(x, mean)[..., 0].scatter_add(1, where.reshape(flat), (x.gather(1, where) * dtop).reshape(flat))
    return dx, df[..., None]


def _strip_gradient(
    inputs: Sequence[Any], _: Sequence[Tensor], drows: Tensor, dcolumns: Tensor, g: Tensor | None = None
) -> Any:
    x = inputs[0]
    rows, columns = drows / x.shape[3], dcolumns / x.shape[2]
    return (rows + columns if g is None else combine(x, rows, c=columns, g=g, read=False),)


def _context_gradient(
    inputs: Sequence[Any], saved: Sequence[Tensor], dcontext: Tensor, dweights: Tensor, g: Tensor | None = None
) -> Any:
    (x, key, bias), (weights,) = inputs, saved
    dweights = _weighted_sum(x, dcontext) + dweights
    dlogits = weights * (dweights - (weights * dweights).sum((2, 3), keepdim=True))
    dkey = _weighted_sum(x, dlogits).sum((0, 2, 3))
    dx = combine(x, dcontext, weights, _expand_key(key, x), dlogits, g=g, read=False)
    return dx, dkey, torch.zeros_like(bias)  # the softmax is invariant to the bias


_channels.differentiate(_channel_gradient, saved=slice(4), outputs=3)
_pixels.differentiate(_pixel_gradient, saved=slice(2, 3), outputs=2)
_strips.differentiate(_strip_gradient, outputs=2)
_weighted_sum.differentiate()
_context.differentiate(_context_gradient, saved=slice(1, 2), outputs=2)
