"""Features times factors, plus terms; and the gradients of the factors."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from regard.attention.functional import peaks
from regard.attention.kernels.triton.reduce import over_channels
from regard.attention.kernels.triton.tiles import block, image, load, offsets, over_pixels, small


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
    y: Tensor | None = None,
) -> Tensor:
    """x * a * b + c * d + g, and peaks; any of a and c (N, C, 1, 1), b and d (N, 1, H, W) may be None."""
    if not _fits(x, a, b) or not _fits(x, c, d):
        return NotImplemented
    y = torch.empty_like(x) if y is None else y
    over_pixels(_combine, x, x if read else None, a, b, c, d, g, y, None, None)
    if where is not None and peak is not None:
        y.flatten(2).scatter_add_(*peaks(where, peak, x.dtype))
    return y


def combine_backward(g: Tensor, x: Tensor, a: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """g * a * b, the sums of g * x * b over the pixels and, if `b` is given, of g * x * a over the channels."""
    if not _fits(x, a, b):
        return NotImplemented
    dx, da = torch.empty_like(x), small(x, *a.shape)
    over_pixels(_combine, g, g, a, b, None, None, None, dx, x, da)
    if b is None:
        return dx, da, small(x, 0)
    db = small(x, *b.shape)
    over_channels(g, x, a, db)
    return dx, da, db


def _fits(x: Tensor, a: Tensor | None, b: Tensor | None) -> bool:
    n, c, h, w = x.shape
    return (a is None or a.shape == (n, c, 1, 1)) and (b is None or b.shape == (n, 1, h, w))


@triton.jit(do_not_specialize=["C", "P"])
def _combine(tensors, C, P, V: tl.constexpr, LAST: tl.constexpr, TC: tl.constexpr, TP: tl.constexpr):
    """y = x * a * b + c * d + g; and, if `z` is given, dots: the sums of x * z * b over the pixels."""
    x, a, b, c, d, g, y, z, dots = tensors
    C, P = image(C, P, V, LAST)
    n, channel = block(C, TC)
    row, ok = n * C + channel, channel < C
    first = n * C * P
    total = tl.zeros([TC, TP], tl.float32)
    for start in range(0, P, TP):
        p = start + tl.arange(0, TP)
        index = first + offsets(channel[:, None], p[None, :], C, P, LAST)
        mask = ok[:, None] & (p < P)[None, :]
        v = tl.full([TC, TP], 0.0 if a is None and b is None else 1.0, tl.float32)
        if x is not None:
            v = load(x, index, mask)
        if b is not None:
            v *= load(b, n * P + p, p < P)[None, :]
        if z is not None:
            total += v * load(z, index, mask)
        if a is not None:
            v *= load(a, row, ok)[:, None]
        if c is not None or d is not None:
            term = tl.full([TC, TP], 1.0, tl.float32)
            if c is not None:
                term *= load(c, row, ok)[:, None]
            if d is not None:
                term *= load(d, n * P + p, p < P)[None, :]
            v += term
        if g is not None:
            v += load(g, index, mask)
        tl.store(y + index, v, mask=mask)
    if z is not None:
        tl.store(dots + row, tl.sum(total, 1), mask=ok)
