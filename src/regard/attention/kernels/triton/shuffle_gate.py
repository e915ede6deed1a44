"""The gate of shuffle attention: statistics, gate, product and channel shuffle in one pass over memory.

A program processes some channels of an image and reads their pixels two or three times, all but the first time from the
cache. The shuffle moves channel j C/2 + i to 2 i + j. Contiguous channels are written at another offset. Channels last,
these writes would have gaps, so a program processes the same channels of both halves and interleaves them first.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from regard.attention.kernels.triton.gate import factors, slopes, store_gradients
from regard.attention.kernels.triton.reduce import moments
from regard.attention.kernels.triton.tiles import block, image, load, offsets, over_pixels, small


def shuffle_gate(
    x: Tensor, scale: Tensor, shift: Tensor, local: Tensor, w: Tensor, b: Tensor, eps: float, shuffle: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y; mean and reciprocal standard deviation (0 where not `local`) of each channel, (N, C)."""
    n, c = x.shape[:2]
    if shuffle and c % 2:  # the shuffle interleaves two halves
        return NotImplemented
    y, means, rstds = torch.empty_like(x), small(x, n, c), small(x, n, c)
    tensors = (x, y, scale, shift, local.view(torch.uint8), w, b, means, rstds)
    over_pixels(_forward, x, *tensors, eps=eps, ORDER=len(w), SHUFFLE=shuffle)
    return y, means, rstds


def shuffle_gate_backward(g: Tensor, x: Tensor, *statistics_and_parameters: Any) -> tuple[Tensor, ...]:
    """dx, dscale, dshift (C,), dw, db (K, C)."""
    *tensors, local, w, b, _, shuffle = statistics_and_parameters  # the statistics include eps
    (n, c), k = x.shape[:2], len(w)
    if shuffle and c % 2:
        return NotImplemented
    dx, dscale, dshift = torch.empty_like(x), small(x, n, c), small(x, n, c)
    dw, db = small(x, n, k, c), small(x, n, k, c)
    tensors = [g, x, *tensors, local.view(torch.uint8), w, b, dx, dscale, dshift, dw, db]
    over_pixels(_backward, x, *tensors, ORDER=k, K=max(1, triton.next_power_of_2(k)), SHUFFLE=shuffle)
    return dx, *(gradient.sum(0) for gradient in (dscale, dshift, dw, db))


@triton.jit
def _channels(C, V: tl.constexpr, SHUFFLE: tl.constexpr, LAST: tl.constexpr, TC: tl.constexpr):
    """The image of this program, its channels in x and in y, each with a mask of existing channels.

    Shuffled channels last, half of the tile has channels of one half; `_transpose` puts them into the order of y.
    """
    n, channel = block(C, TC)
    if SHUFFLE and LAST:
        half, row = C // V * (V // 2), tl.arange(0, TC)
        i = (channel - row) // 2 + row % (TC // 2)
        return n, row // (TC // 2) * half + i, i < half, channel, channel < C
    elif SHUFFLE:
        half = C // 2
        return n, channel, channel < C, channel % half * 2 + channel // half, channel < C
    else:
        return n, channel, channel < C, channel, channel < C


@triton.jit
def _transpose(tile, A: tl.constexpr, B: tl.constexpr):
    """Row a B + b of the tile becomes row b A + a."""
    rows = tl.permute(tl.reshape(tile, [A, B, tile.shape[1]]), [1, 0, 2])
    return tl.reshape(rows, [A * B, tile.shape[1]])


@triton.jit
def _load_gradients(g, channel, ok, p, C, P, SHUFFLE: tl.constexpr, LAST: tl.constexpr, TC: tl.constexpr):
    """The gradients of y, in the order of x."""
    dy = tl.load(g + offsets(channel[:, None], p, C, P, LAST), mask=_mask(ok, p, P), other=0.0)
    if SHUFFLE and LAST:
        dy = _transpose(dy, TC // 2, 2)
    return dy.to(tl.float32)


@triton.jit
def _mask(ok, p, P):
    return ok[:, None] & (p < P)[None, :]


@triton.jit
def _values(x, index, mask, mean, rstd, is_local):
    """The features v, and t, of which the logits are linear: the normalised features, or the mean of the channel."""
    v = load(x, index, mask)
    return v, tl.where(is_local[:, None], (v - mean[:, None]) * rstd[:, None], mean[:, None])


@triton.jit(do_not_specialize=["C", "P"])
def _forward(
    tensors,
    C,
    P,
    eps,
    ORDER: tl.constexpr,
    SHUFFLE: tl.constexpr,
    V: tl.constexpr,
    LAST: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
):
    x, y, scale, shift, local, w, b, means, rstds = tensors
    C, P = image(C, P, V, LAST)
    n, c, ok, out_c, out_ok = _channels(C, V, SHUFFLE, LAST, TC)
    x, y = x + n * C * P, y + n * C * P
    s, e = load(scale, c, ok)[:, None], load(shift, c, ok)[:, None]
    is_local = tl.load(local + c, mask=ok, other=0) != 0
    mean, deviation = moments(x, c, ok, C, P, LAST, TC, TP)
    rstd = tl.where(is_local, 1.0 / tl.sqrt(deviation / P + eps), 0.0)
    tl.store(means + n * C + c, mean, mask=ok)
    tl.store(rstds + n * C + c, rstd, mask=ok)
    for start in range(0, P, TP):
        p = start + tl.arange(0, TP)
        v, t = _values(x, offsets(c[:, None], p, C, P, LAST), _mask(ok, p, P), mean, rstd, is_local)
        f = factors(s * t + e, w, b, c, ok, C, ORDER)
        product = (v * f).to(y.dtype.element_ty)
        if SHUFFLE and LAST:
            product = _transpose(product, 2, TC // 2)
        tl.store(y + offsets(out_c[:, None], p, C, P, LAST), product, mask=_mask(out_ok, p, P))


@triton.jit(do_not_specialize=["C", "P"])
def _backward(
    tensors,
    C,
    P,
    ORDER: tl.constexpr,
    K: tl.constexpr,
    SHUFFLE: tl.constexpr,
    V: tl.constexpr,
    LAST: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
):
    g, x, means, rstds, scale, shift, local, w, b, dx, dscale, dshift, dws, dbs = tensors
    C, P = image(C, P, V, LAST)
    n, c, ok, out_c, out_ok = _channels(C, V, SHUFFLE, LAST, TC)
    g, x, dx, row = g + n * C * P, x + n * C * P, dx + n * C * P, n * C + c
    s, e = load(scale, c, ok)[:, None], load(shift, c, ok)[:, None]
    is_local = tl.load(local + c, mask=ok, other=0) != 0
    mean, rstd = load(means, row, ok), load(rstds, row, ok)
    total = tl.zeros([TC], tl.float32)
    dot = tl.zeros([TC], tl.float32)
    dw = tl.zeros([TC, K], tl.float32)
    db = tl.zeros([TC, K], tl.float32)
    for start in range(0, P, TP):
        p = start + tl.arange(0, TP)
        v, t = _values(x, offsets(c[:, None], p, C, P, LAST), _mask(ok, p, P), mean, rstd, is_local)
        dy = _load_gradients(g, out_c, out_ok, p, C, P, SHUFFLE, LAST, TC)
        _, du, tile_dw, tile_db = slopes(s * t + e, dy * v, w, b, c, ok, C, ORDER, K)
        total += tl.sum(du, 1)
        dot += tl.sum(du * t, 1)
        dw += tile_dw
        db += tile_db
    slope = tl.where(is_local[:, None], s * rstd[:, None], s)
    for start in range(0, P, TP):
        p = start + tl.arange(0, TP)
        index, mask = offsets(c[:, None], p, C, P, LAST), _mask(ok, p, P)
        v, t = _values(x, index, mask, mean, rstd, is_local)
        dy = _load_gradients(g, out_c, out_ok, p, C, P, SHUFFLE, LAST, TC)
        f, du, _, _ = slopes(s * t + e, dy * v, w, b, c, ok, C, ORDER, K)
        centred = du - (total[:, None] + t * dot[:, None]) / P
        d = dy * f + slope * tl.where(is_local[:, None], centred, total[:, None] / P)
        tl.store(dx + index, d, mask=mask)
    tl.store(dscale + row, dot, mask=ok)
    tl.store(dshift + row, total, mask=ok)
    store_gradients(dw, db, dws, dbs, n, c, ok, C, ORDER, K)
