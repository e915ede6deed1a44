"""Reductions over the pixels of a channel, or over the channels at a pixel: sums, variances, maxima and argmax."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from regard.attention.kernels.triton.tiles import block, image, is_last, launch, load, offsets, over_pixels, small, tile

NOWHERE = tl.constexpr(2**31 - 1)


def channel_statistics(x: Tensor, variance: bool, maximum: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, variance (with H W - 1), maximum and its first pixel: (N, C), or (0,) if not requested."""
    n, c, h, w = x.shape
    means, variances = small(x, n, c), small(x, *((n, c) if variance else (0,)))
    tops = small(x, *((n, c) if maximum else (0,)))
    where = small(x, *tops.shape, dtype=torch.int64)
    optional = variances if variance else None, *((tops, where) if maximum else (None, None))
    over_pixels(_reduce, x, x, None, None, means, *optional, scale=1 / (h * w), PIXELS=True)
    return means, variances, tops, where


def pixel_statistics(x: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, maximum and its first channel, of x * f over the channels, (N, 1, H, W) each."""
    n, c, h, w = x.shape
    results = small(x, n, 1, h, w), small(x, n, 1, h, w), small(x, n, 1, h, w, dtype=torch.int64)
    over_channels(x, None, f, results[0], *results[1:], scale=1 / c)
    return results


def over_channels(
    x: Tensor,
    y: Tensor | None,
    f: Tensor,
    sums: Tensor,
    tops: Tensor | None = None,
    where: Tensor | None = None,
    scale: float = 1.0,
) -> None:
    """The sums of x * y * f over the channels at each pixel, times `scale`; maxima and argmax too; f: (N, C)."""
    # An image has few programs, so each reads larger tiles if there are many channels.
    tc, tp = tile(x, rows=128 if is_last(x) else max(32, triton.next_power_of_2(x.shape[1]) // 32))
    programs = triton.cdiv(x.shape[2] * x.shape[3], tp)
    launch(_reduce, programs, x, x, y, f, sums, None, tops, where, scale=scale, PIXELS=False, TC=tc, TP=tp)


@triton.jit
def moments(x, c, ok, C, P, LAST: tl.constexpr, TC: tl.constexpr, TP: tl.constexpr):
    """Mean and sum of squared deviations of the channels c of the image at x.

    Deviations are relative to the mean of the first tile. Its squared distance from the channel's mean is at most the
    variance times the number of tiles, so precision is not lost.
    """
    pixels = tl.arange(0, TP)[None, :]
    first = load(x, offsets(c[:, None], pixels, C, P, LAST), ok[:, None] & (pixels < P))
    pivot = tl.sum(first, 1) / tl.minimum(P, TP)
    total = tl.zeros([TC, TP], tl.float32)
    squares = tl.zeros([TC, TP], tl.float32)
    for start in range(0, P, TP):
        p = start + pixels
        mask = ok[:, None] & (p < P)
        d = tl.where(mask, load(x, offsets(c[:, None], p, C, P, LAST), mask) - pivot[:, None], 0.0)
        total += d
        squares += d * d
    shift = tl.sum(total, 1) / P
    deviation = tl.sum(squares, 1) - shift * shift * P
    return pivot + shift, tl.where(deviation < 0, 0.0, deviation)  # keeps NaN


@triton.jit(do_not_specialize=["C", "P"])
def _reduce(
    tensors, C, P, scale, PIXELS: tl.constexpr, V: tl.constexpr, LAST: tl.constexpr, TC: tl.constexpr, TP: tl.constexpr
):
    """Reduces x * y * f over the pixels or channels; y, f (N, C), variances, tops and where may be None."""
    x, y, f, sums, variances, tops, where = tensors
    C, P = image(C, P, V, LAST)
    n, outer = block(C if PIXELS else P, TC if PIXELS else TP)
    x = x + n * C * P
    if y is not None:
        y = y + n * C * P
    total = tl.zeros([TC, TP], tl.float32)
    top = tl.full([TC, TP], float("-inf"), tl.float32)
    position = tl.full([TC, TP], NOWHERE, tl.int32)
    for start in range(0, P if PIXELS else C, TP if PIXELS else TC):
        inner = start + tl.arange(0, TP if PIXELS else TC)
        c, p = (outer[:, None], inner[None, :]) if PIXELS else (inner[:, None], outer[None, :])
        index, mask = offsets(c, p, C, P, LAST), (c < C) & (p < P)
        v = load(x, index, mask)
        if y is not None:
            v *= load(y, index, mask)
        if f is not None:
            v *= load(f, n * C + c, c < C)
        total += v
        if tops is not None:
            nan = (v != v) & (top == top)  # NaN is larger than all
            larger = mask & ((v > top) | nan | (position == NOWHERE))
            top = tl.where(larger, v, top)
            position = tl.where(larger, p if PIXELS else c, position)
    axis: tl.constexpr = 1 if PIXELS else 0
    row, ok = n * (C if PIXELS else P) + outer, outer < (C if PIXELS else P)
    tl.store(sums + row, tl.sum(total, axis) * scale, mask=ok)
    if variances is not None:
        _, deviation = moments(x, outer, ok, C, P, LAST, TC, TP)
        tl.store(variances + row, deviation / tl.maximum(P - 1, 1), mask=ok)
    if tops is not None:
        nan = top != top
        any_nan = tl.max(nan.to(tl.int32), axis) > 0
        value = tl.where(any_nan, float("nan"), tl.max(tl.where(nan, float("-inf"), top), axis))
        is_top = tl.where(tl.expand_dims(any_nan, axis), nan, top == tl.expand_dims(value, axis))
        tl.store(tops + row, value, mask=ok)
        tl.store(where + row, tl.min(tl.where(is_top, position, NOWHERE), axis), mask=ok)
