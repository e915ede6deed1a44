"""The gate of spatial group-wise enhance: one map of factors per group, from each pixel's similarity to the mean.

A group has M = C / G channels. A program processes TG groups of an image and reads their pixels two or three times, all
but the first time from the cache; maps are not stored in memory.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from regard.attention.kernels.triton.gate import factors, slopes, store_gradients
from regard.attention.kernels.triton.tiles import block, image, is_last, launch, load, offsets, small, tile

LARGEST = 64  # maximal number of channels in a group


def group_gate(
    x: Tensor, weight: Tensor, bias: Tensor, w: Tensor, b: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the mean of each channel (N, C), and mean and standard deviation (with P - 1) of the maps (N, G)."""
    (n, c), groups = x.shape[:2], len(weight)
    if c % groups or c // groups > LARGEST:
        return NotImplemented
    y, means, centres, stds = torch.empty_like(x), small(x, n, c), small(x, n, groups), small(x, n, groups)
    tensors = (x, y, weight, bias, w, b, means, centres, stds)
    _launch(_forward, groups, x, *tensors, eps=eps, ORDER=len(w))
    return y, means, centres, stds


def group_gate_backward(g: Tensor, x: Tensor, *statistics_and_parameters: Any) -> tuple[Tensor, ...]:
    """dx, dweight, dbias (G,), dw, db (K, G)."""
    *tensors, eps = statistics_and_parameters
    (n, c), (groups, k) = x.shape[:2], (tensors[1].shape[1], len(tensors[-1]))
    if c % groups or c // groups > LARGEST:
        return NotImplemented
    dx, dweight, dbias = torch.empty_like(x), small(x, n, groups), small(x, n, groups)
    dw, db = small(x, n, k, groups), small(x, n, k, groups)
    tensors = [g, x, *tensors, dx, dweight, dbias, dw, db]
    _launch(_backward, groups, x, *tensors, eps=eps, ORDER=k, K=max(1, triton.next_power_of_2(k)))
    return dx, *(gradient.sum(0) for gradient in (dweight, dbias, dw, db))


def _launch(kernel: triton.JITFunction, groups: int, x: Tensor, *tensors: Tensor, **kwargs: Any) -> None:
    members = x.shape[1] // groups
    tm = triton.next_power_of_2(members)
    tc, tp = tile(x, rows=tm, per_thread=4)
    tg = max(1, tc // tm)
    stride = members if is_last(x) else 0
    launch(kernel, triton.cdiv(groups, tg), x, *tensors, stride=stride, G=groups, TG=tg, TC=tm, TP=tp, **kwargs)


@triton.jit
def _groups(C, G, V: tl.constexpr, LAST: tl.constexpr, TG: tl.constexpr, TC: tl.constexpr):
    """The image of this program, its groups, their channels (groups, channels, 1), and a mask of existing channels."""
    M = C // G // V * V if LAST else C // G
    n, group = block(G, TG)
    m = tl.arange(0, TC)[None, :, None]
    return n, group, group[:, None, None] * M + m, (group < G)[:, None, None] & (m < M)


@triton.jit(do_not_specialize=["C", "P", "G"])
def _forward(
    tensors,
    C,
    P,
    G,
    eps,
    ORDER: tl.constexpr,
    V: tl.constexpr,
    LAST: tl.constexpr,
    TG: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
):
    x, y, weight, bias, w, b, means, centres, stds = tensors
    C, P = image(C, P, V, LAST)
    n, group, c, ok = _groups(C, G, V, LAST, TG, TC)
    x, y, valid = x + n * C * P, y + n * C * P, group < G
    total = tl.zeros([TG, TC, TP], tl.float32)
    for start in range(0, P, TP):
        p = start + tl.arange(0, TP)
        total += load(x, offsets(c, p, C, P, LAST), ok & (p < P))
    mean = (tl.sum(total, 2) / P)[:, :, None]
    centre = tl.sum(mean * mean, 1)  # of the map, sum_c mean[c] x[c, p]
    squares = tl.zeros([TG, TP], tl.float32)
    for start in range(0, P, TP):
        p = start + tl.arange(0, TP)
        _, d = _map(x, mean, centre, c, ok, p, C, P, LAST)
        squares += d * d
    std = tl.sqrt(tl.sum(squares, 1) / tl.maximum(P - 1, 1))
    slope = load(weight, group, valid) / (std + eps)
    shift = load(bias, group, valid)[:, None]
    for start in range(0, P, TP):
        p = start + tl.arange(0, TP)
        v, d = _map(x, mean, centre, c, ok, p, C, P, LAST)
        f = factors(slope[:, None] * d + shift, w, b, group, valid, G, ORDER)
        tl.store(y + offsets(c, p, C, P, LAST), v * f[:, None, :], mask=ok & (p < P))
    row = n * G + group
    tl.store(means + n * C + c, mean, mask=ok)
    tl.store(centres + row[:, None], centre, mask=valid[:, None])
    tl.store(stds + row, std, mask=valid)


@triton.jit
def _map(x, mean, centre, c, ok, p, C, P, LAST: tl.constexpr):
    """The features, and the deviations of the map from its mean, which are 0 outside the image."""
    v = load(x, offsets(c, p, C, P, LAST), ok & (p < P))
    return v, tl.where((p < P)[None, :], tl.sum(mean * v, 1) - centre, 0.0)


@triton.jit(do_not_specialize=["C", "P", "G"])
def _backward(
    tensors,
    C,
    P,
    G,
    eps,
    ORDER: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    LAST: tl.constexpr,
    TG: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
):
    g, x, means, centres, stds, weight, bias, w, b, dx, dweight, dbias, dws, dbs = tensors
    C, P = image(C, P, V, LAST)
    n, group, c, ok = _groups(C, G, V, LAST, TG, TC)
    g, x, dx, valid, row = g + n * C * P, x + n * C * P, dx + n * C * P, group < G, n * G + group
    mean, centre, std = load(means, n * C + c, ok), load(centres, row, valid)[:, None], load(stds, row, valid)
    slope, shift, scale = load(weight, group, valid), load(bias, group, valid)[:, None], (1 / (std + eps))[:, None]
    total = tl.zeros([TG], tl.float32)
    dot = tl.zeros([TG], tl.float32)
    dw = tl.zeros([TG, K], tl.float32)
    db = tl.zeros([TG, K], tl.float32)
    # Sums over pixels of the deviations of x from its mean, times du and times t. The gradient of the map sums to 0
    # over the pixels, so the deviations give the same gradient of the mean as x itself.
    du_sums = tl.zeros([TG, TC, TP], tl.float32)
    t_sums = tl.zeros([TG, TC, TP], tl.float32)
    for start in range(0, P, TP):
        p = start + tl.arange(0, TP)
        v, d = _map(x, mean, centre, c, ok, p, C, P, LAST)
        dy = load(g, offsets(c, p, C, P, LAST), ok & (p < P))
        t = d * scale
        _, du, tile_dw, tile_db = slopes(slope[:, None] * t + shift, tl.sum(dy * v, 1), w, b, group, valid, G, ORDER, K)
        total += tl.sum(du, 1)
        dot += tl.sum(du * t, 1)
        dw += tile_dw
        db += tile_db
        deviation = tl.where(p < P, v - mean, 0.0)
        du_sums += du[:, None, :] * deviation
        t_sums += t[:, None, :] * deviation
    std_slope = tl.where(std > 0, dot / (std * tl.maximum(P - 1, 1)), 0.0)[:, None]
    du_mean = (total / P)[:, None]
    offset = tl.sum(du_sums, 2) * scale - std_slope * tl.sum(t_sums, 2)
    offset = (slope[:, None] * offset / P)[:, :, None]
    for start in range(0, P, TP):
        p = start + tl.arange(0, TP)
        v, d = _map(x, mean, centre, c, ok, p, C, P, LAST)
        index, mask = offsets(c, p, C, P, LAST), ok & (p < P)
        dy = load(g, index, mask)
        t = d * scale
        f, du, _, _ = slopes(slope[:, None] * t + shift, tl.sum(dy * v, 1), w, b, group, valid, G, ORDER, K)
        ds = slope[:, None] * ((du - du_mean) * scale - std_slope * t)
        tl.store(dx + index, dy * f[:, None, :] + ds[:, None, :] * mean + offset, mask=mask)
    tl.store(dweight + row, dot, mask=valid)
    tl.store(dbias + row, total, mask=valid)
    store_gradients(dw, db, dws, dbs, n, group, valid, G, ORDER, K)
