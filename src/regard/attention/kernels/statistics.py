"""Means, variances and maxima over channels, pixels, rows and columns.

The gradients of `channel_mean` and `strip_means` are views of their few values, which autograd adds to what else
reaches the features. Those of the others have a value for every element: they return the features too, and where these
are used from there on, all of their gradient is made in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from regard.attention import functional
from regard.attention.kernels.combine import combine
from regard.attention.kernels.operation import Operation


def _is_batch(x: Tensor) -> bool:
    return x.dim() == 4


_channels = Operation(functional.channel_statistics, lambda x, variance, maximum: _is_batch(x))
_pixels = Operation(functional.pixel_statistics, lambda x, f: _is_batch(x) and f.shape == (*x.shape[:2], 1, 1))
_strips = Operation(functional.strip_means, lambda x, same: _is_batch(x) and same is x)
weighted_sum = Operation(
    functional.weighted_sum, lambda x, f: f.shape in ((x.shape[0], 1, *x.shape[2:]), (*x.shape[:2], 1, 1))
)


def _of_channels(
    inputs: Sequence[Any],
    kept: Sequence[Tensor],
    dmean: Tensor,
    dvariance: Tensor,
    dtop: Tensor,
    g: Tensor | None = None,
) -> Any:
    (x, variance, maximum), (mean, *_, where) = inputs, kept
    pixels = x.shape[2] * x.shape[3]
    everywhere, slope = dmean[:, :, None, None] / pixels, None
    if not variance and not maximum:
        return everywhere.to(x.dtype).expand(x.shape), None, None
    if variance:
        slope = dvariance[:, :, None, None] * (2 / max(pixels - 1, 1))
        everywhere = everywhere - slope * mean[:, :, None, None]
    peak = {"where": where, "peak": dtop} if maximum else {}
    return combine(x, slope, c=everywhere, g=g, read=variance, **peak), None, None


def _of_pixels(
    inputs: Sequence[Any], kept: Sequence[Tensor], dmean: Tensor, dtop: Tensor, g: Tensor | None = None
) -> Any:
    x, f = inputs
    (where,), mean = kept, dmean / x.shape[1]
    dx = combine(x, f, mean, g=g, where=where, peak=f.expand_as(x).gather(1, where) * dtop, read=False)
    line = x.shape[0], x.shape[2] * x.shape[3], 1
    df = weighted_sum(x, mean)[..., 0].scatter_add(1, where.reshape(line), (x.gather(1, where) * dtop).reshape(line))
    return dx, df[..., None].to(f.dtype)


def _of_strips(inputs: Sequence[Any], _: Any, drows: Tensor, dcolumns: Tensor) -> Any:
    x = inputs[0]
    of_rows, of_columns = drows / x.shape[3], dcolumns / x.shape[2]
    return of_rows.to(x.dtype).expand(x.shape), of_columns.to(x.dtype).expand(x.shape)


_channels.differentiate(_of_channels, kept=slice(4), outputs=3)
_pixels.differentiate(_of_pixels, kept=slice(2, 3), outputs=2)
_strips.differentiate(_of_strips, outputs=2)
weighted_sum.differentiate()


def channel_mean(x: Tensor) -> Tensor:
    """The mean of each channel of features x (N, C, H, W): (N, C), in their dtype."""
    return _channels(x, False, False)[0].to(x.dtype)


def channel_mean_variance(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, mean and variance (with H W - 1 in the denominator; 0 for one pixel) of each channel, (N, C), in its dtype."""
    x, (mean, variance, _, _) = _channels.carry(x, True, False)
    return x, mean.to(x.dtype), variance.to(x.dtype)


def channel_mean_max(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, mean and maximum of each channel: (N, C), in its dtype. A maximum's gradient goes to the first pixel."""
    x, (mean, _, top, _) = _channels.carry(x, False, True)
    return x, mean.to(x.dtype), top.to(x.dtype)


def pixel_mean_max(x: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, mean and maximum over the channels of `x * f`, f: (N, C, 1, 1), at each pixel: (N, 1, H, W), in its dtype."""
    x, (mean, top, _) = _pixels.carry(x, f)
    return x, mean.to(x.dtype), top.to(x.dtype)


def strip_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """The means of the rows (N, C, H, 1) and of the columns (N, C, 1, W) of each channel, in the dtype of x."""
    rows, columns = _strips(x, x)
    return rows.to(x.dtype), columns.to(x.dtype)
