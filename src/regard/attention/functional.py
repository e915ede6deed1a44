"""The formulas that define the operations in `kernels`.

Features x and their gradients g are (N, C, H, W). All other tensors (factors, statistics, parameters and their
gradients) broadcast to them; statistics and gradients are in float32 at least. The formulas are differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def combine(
    x: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    d: Tensor | None,
    g: Tensor | None,
    where: Tensor | None,
    peak: Tensor | None,
    read: bool,
) -> Tensor:
    """`x * a * b + c * d + g`, or, if `read` is false, `a * b + c * d + g`, with the shape and dtype of x.

    An absent factor is 1; an absent term (c and d, g) is 0. g is (N, C, H, W). `peak` is added at the positions
    `where`: pixels h W + w of each channel, (N, C), or channels at each pixel, (N, 1, H, W).
    """
    parts = []
    for first, factors in ((x if read else None, (a, b)), (None, (c, d)), (g, ())):
        product = first
        for factor in factors:
            if factor is not None:
                product = factor.to(x.dtype) if product is None else product * factor.to(x.dtype)
        if product is not None:
            parts.append(product)
    y = sum(parts[1:], parts[0])
    y = y if y.shape == x.shape else y.expand(x.shape)
    if where is None or peak is None:
        return y
    return y.flatten(2).scatter_add(*peaks(where, peak, x.dtype)).reshape(x.shape)


def peaks(where: Tensor, peak: Tensor, dtype: torch.dtype) -> tuple[int, Tensor, Tensor]:
    """The arguments of `scatter_add` that add the peaks of `combine` to features (N, C, H W)."""
    peak = peak.to(dtype)
    return (2, where[:, :, None], peak[:, :, None]) if where.dim() == 2 else (1, where.flatten(2), peak.flatten(2))


def combine_backward(g: Tensor, x: Tensor, a: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, a and b for `x * a * b`; the last is empty if b is absent."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    product, dx = g.to(dtype) * x.to(dtype), combine(g, a, b, None, None, None, None, None, True)
    if b is None:
        return dx, product.sum_to_size(a.shape), x.new_empty(0, dtype=dtype)
    return dx, (product * b).sum_to_size(a.shape), (product * a).sum_to_size(b.shape)


def channel_statistics(x: Tensor, variance: bool, maximum: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, variance, maximum and its first pixel h W + w of each channel: (N, C), or (0,) for those not requested.

    The variance has H W - 1 in the denominator; for one pixel it is 0. The gradient of a maximum goes to its pixel.
    """
    mean = x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
    squares, top, where = mean.new_empty(0), mean.new_empty(0), mean.new_empty(0, dtype=torch.int64)
    if variance:
        squares = (x.to(mean.dtype) - mean[:, :, None, None]).square().sum((2, 3)) / max(x.shape[2] * x.shape[3] - 1, 1)
    if maximum:
        top, where = x.flatten(2).max(2)
    return mean, squares, top.to(mean.dtype), where


def pixel_statistics(x: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, maximum and its first channel, over the channels of `x * f` with f (N, C, 1, 1): (N, 1, H, W) each."""
    scaled = x * f.to(x.dtype)
    dtype = torch.promote_types(x.dtype, torch.float32)
    top, where = scaled.max(1, keepdim=True)
    return scaled.mean(1, keepdim=True, dtype=dtype), top.to(dtype), where


def strip_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """The means of the rows (N, C, H, 1) and of the columns (N, C, 1, W) of each channel."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.mean(3, keepdim=True, dtype=dtype), x.mean(2, keepdim=True, dtype=dtype)


def weighted_sum(x: Tensor, f: Tensor) -> Tensor:
    """The sum of `x * f`, over pixels for f (N, 1, H, W), with the result (N, C, 1, 1), else over channels."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if f.shape[1] == 1:
        return torch.einsum("nchw,nihw->nci", x, f.to(x.dtype)).to(dtype)[..., None]
    return torch.einsum("nchw,ncij->nijhw", x, f.to(x.dtype))[:, 0].to(dtype)


def sigmoids(u: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The gate: `sigmoid(u[0]) * … * sigmoid(u[K])` with `u[0] = u`, `u[k + 1] = w[k] * u[k] + b[k]`; w, b: (K, C)."""
    factors = torch.sigmoid(u)
    for wk, bk in zip(w, b, strict=True):
        u = wk[:, None, None] * u + bk[:, None, None]
        factors = factors * torch.sigmoid(u)
    return factors


def _shuffle_statistics(x: Tensor, local: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, reciprocal standard deviation, and t, of which the logits of `shuffle_gate` are a linear function."""
    mean = x.mean((2, 3), keepdim=True)
    rstd = ((x - mean).square().mean((2, 3), keepdim=True) + eps).rsqrt()
    return mean, rstd, torch.where(local[:, None, None], (x - mean) * rstd, mean)


def shuffle_logits(x: Tensor, scale: Tensor, shift: Tensor, local: Tensor, eps: float) -> Tensor:
    """Gate logits (N, C, H, W) of `shuffle_gate`, in float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return scale[:, None, None] * _shuffle_statistics(x, local, eps)[2] + shift[:, None, None]


def shuffle_gate(
    x: Tensor, scale: Tensor, shift: Tensor, local: Tensor, w: Tensor, b: Tensor, eps: float, shuffle: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`x * gate(scale * t + shift)`, where t is the normalised channel if `local`, else the mean of the channel.

    Also returns mean and reciprocal standard deviation (0 if not `local`) of each channel, (N, C). With `shuffle`,
    channel j C/2 + i of the product is channel 2 i + j of the result. scale, shift, local (bool): (C,); w, b: (K, C),
    see `sigmoids`; eps: added to the variance.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean, rstd, t = _shuffle_statistics(wide, local, eps)
    y = (wide * sigmoids(scale[:, None, None] * t + shift[:, None, None], w, b)).to(x.dtype)
    return F.channel_shuffle(y, 2) if shuffle else y, mean.flatten(1), rstd.flatten(1) * local


def _group_statistics(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The channel means (N, G, C/G, 1, 1), the normalised maps of the groups, and means and deviations of the maps."""
    grouped = x.unflatten(1, (groups, -1))
    mean = grouped.mean((3, 4), keepdim=True)
    maps = (grouped * mean).sum(2)  # (N, G, H, W)
    centre = maps.mean((2, 3), keepdim=True)
    pixels = maps.shape[2] * maps.shape[3]
    variance = (maps - centre).square().sum((2, 3), keepdim=True) / (pixels - 1 if pixels > 1 else 1)
    positive = variance > 0  # defines the slope of the root at 0 as 0, so that constant maps have a finite gradient
    std = torch.where(positive, torch.where(positive, variance, 1).sqrt(), 0)
    return mean, (maps - centre) / (std + eps), centre, std


def group_logits(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Gate logits (N, G, H, W) of `group_gate`, in float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return weight[:, None, None] * _group_statistics(x, len(weight), eps)[1] + bias[:, None, None]


def group_gate(
    x: Tensor, weight: Tensor, bias: Tensor, w: Tensor, b: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`x * gate(weight * t + bias)`, with one normalised map t for each of G groups of channels.

    Also returns the means of the channels (N, C), and means and standard deviations of the maps (N, G). The map of a
    group is `s[p] = sum_c mean(x[c]) x[c, p]`, and `t = (s - mean(s)) / (std(s) + eps)`, with H W - 1 in the
    denominator of the variance. weight, bias: (G,); w, b: (K, G), see `sigmoids`.
    """
    wide, groups = x.to(torch.promote_types(x.dtype, torch.float32)), len(weight)
    mean, t, centre, std = _group_statistics(wide, groups, eps)
    factors = sigmoids(weight[:, None, None] * t + bias[:, None, None], w, b)
    y = (wide * factors.repeat_interleave(x.shape[1] // groups, 1)).to(x.dtype)
    return y, mean.reshape(x.shape[:2]), centre.flatten(1), std.flatten(1)
