"""The gate of spatial group-wise enhance: one map of factors a group, from how alike each pixel is to the mean.

M = C / G channels are a group. A program has TG groups of an image and goes through their pixels twice or three times;
all but the first time they come out of the cache, so that maps never lie in memory.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from regard.attention.kernels.triton.gate import factors, slopes, store_gradients
from regard.attention.kernels.triton.tiles import block, image, is_last, launch, load, offsets, small, tile

LARGEST = 64  # channels of a group


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
    return dx, *(of_images.sum(0) for of_images in (dweight, dbias, dw, db))


def _launch(kernel: triton.JITFunction, groups: int, x: Tensor, *tensors: Tensor, **more: Any) -> None:
    members = x.shape[1] // groups
    tm = triton.next_power_of_2(members)
    tc, tp = tile(x, rows=tm, each=4)
    tg = max(1, tc // tm)
    stride = members if is_last(x) else 0
    launch(kernel, triton.cdiv(groups, tg), x, *tensors, stride=stride, G=groups, TG=tg, TC=tm, TP=tp, **more)


@triton.jit
def _groups(C, G, V: tl.constexpr, LAST: tl.constexpr, TG: tl.constexpr, TC: tl.constexpr):
    """The image of this program, its groups, their channels (groups, channels, 1), and which are there."""
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
    x, y, here = x + n * C * P, y + n * C * P, group < G
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
    slope = load(weight, group, here) / (std + eps)
    shift = load(bias, group, here)[:, None]
    for start in range(0, P, TP):
        p = start + tl.arange(0, TP)
        v, d = _map(x, mean, centre, c, ok, p, C, P, LAST)
        f = factors(slope[:, None] * d + shift, w, b, group, here, G, ORDER)
        tl.store(y + offsets(c, p, C, P, LAST), v * f[:, None, :], mask=ok & (p < P))
    row = n * G + group
    tl.store(means + n * C + c, mean, mask=ok)
    tl.store(centres + row[:, None], centre, mask=here[:, None])
    tl.store(stds + row, std, mask=here)


@triton.jit
def _map(x, mean, centre, c, ok, p, C, P, LAST: tl.constexpr):
    """Features, and the deviations of the map from its mean, 0 outside."""
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
    g, x, dx, here, row = g + n * C * P, x + n * C * P, dx + n * C * P, group < G, n * G + group
    mean, centre, std = load(means, n * C + c, ok), load(centres, row, here)[:, None], load(stds, row, here)
    slope, shift, scale = load(weight, group, here), load(bias, group, here)[:, None], (1 / (std + eps))[:, None]
    total = tl.zeros([TG], tl.float32)
    along = tl.zeros([TG], tl.float32)
    dw = tl.zeros([TG, K], tl.float32)
    db = tl.zeros([TG, K], tl.float32)
    # The sums over the pixels of the deviations of x from its mean, times du and times t: of these, the gradient of the
    # map sums to 0 over the pixels, so that the mean adds nothing to that of the mean.
    by_du = tl.zeros([TG, TC, TP], tl.float32)
    by_t = tl.zeros([TG, TC, TP], tl.float32)
    for start in range(0, P, TP):
        p = start + tl.arange(0, TP)
        v, d = _map(x, mean, centre, c, ok, p, C, P, LAST)
        over = load(g, offsets(c, p, C, P, LAST), ok & (p < P))
        t = d * scale
        _, du, more_w, more_b = slopes(slope[:, None] * t + shift, tl.sum(over * v, 1), w, b, group, here, G, ORDER, K)
        total += tl.sum(du, 1)
        along += tl.sum(du * t, 1)
        dw += more_w
        db += more_b
        deviation = tl.where(p < P, v - mean, 0.0)
        by_du += du[:, None, :] * deviation
        by_t += t[:, None, :] * deviation
    bend = tl.where(std > 0, along / (std * tl.maximum(P - 1, 1)), 0.0)[:, None]
    centred = (total / P)[:, None]
    rest = tl.sum(by_du, 2) * scale - bend * tl.sum(by_t, 2)
    rest = (slope[:, None] * rest / P)[:, :, None]
    for start in range(0, P, TP):
        p = start + tl.arange(0, TP)
        v, d = _map(x, mean, centre, c, ok, p, C, P, LAST)
        at, mask = offsets(c, p, C, P, LAST), ok & (p < P)
        over = load(g, at, mask)
        t = d * scale
        f, du, _, _ = slopes(slope[:, None] * t + shift, tl.sum(over * v, 1), w, b, group, here, G, ORDER, K)
        ds = slope[:, None] * ((du - centred) * scale - bend * t)
        tl.store(dx + at, over * f[:, None, :] + ds[:, None, :] * mean + rest, mask=mask)
    tl.store(dweight + row, along, mask=here)
    tl.store(dbias + row, total, mask=here)
    store_gradients(dw, db, dws, dbs, n, group, here, G, ORDER, K)
