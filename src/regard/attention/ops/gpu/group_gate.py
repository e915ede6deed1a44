"""The group gate: one map of factors a group of channels, from the likeness of every place to the group's mean.

M = C / G channels are a group, and a program has one group. If that fits its registers, x and g are read once. If not,
the work is cut where sums over the group end: its map, the gate of the map, and what the map does to the channels.
"""

from __future__ import annotations

import triton
import triton.language as tl

from regard.attention.ops.gpu.address import aligned, inside, offsets, spot, taken
from regard.attention.ops.gpu.gate import factors, keep, slopes


@triton.jit
def _size(C: tl.tensor, G: tl.tensor, V: tl.constexpr, LAST: tl.constexpr) -> tl.tensor:
    """M. Channels last, V divides it."""
    return C // G // V * V if LAST else C // G


@triton.jit
def _group(G: tl.tensor) -> tuple:
    """The image and the group of this program."""
    return (tl.program_id(0) // G).to(tl.int64), tl.program_id(0) % G


@triton.jit
def _gradient_of_map(
    du: tl.tensor,
    t: tl.tensor,
    total: tl.tensor,
    along: tl.tensor,
    weight: tl.tensor,
    spread: tl.tensor,
    eps: tl.tensor,
    P: tl.tensor,
) -> tl.tensor:
    """From the gradient of the logits weight * t + bias: of the map s, with t = (s - mean(s)) / (std(s) + eps)."""
    bend = tl.where(spread > 0, along / (spread * tl.maximum(P - 1, 1)), 0.0)
    return weight[:, None] * ((du - (total / P)[:, None]) / (spread + eps)[:, None] - bend[:, None] * t)


@triton.jit(do_not_specialize=["C", "P", "G"])
def group_gate_forward(
    x: tl.tensor,
    y: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    w: tl.tensor,
    b: tl.tensor,
    means: tl.tensor,
    centres: tl.tensor,
    spreads: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    G: tl.tensor,
    eps: tl.tensor,
    ORDER: tl.constexpr,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    C, P = aligned(C, P, V, LAST, WIDE)
    n, group = _group(G)
    x, y = x + n * C * P, y + n * C * P
    row, p = group + tl.arange(0, 1), tl.arange(0, TP)
    M = _size(C, G, V, LAST)
    c, end = group * M + tl.arange(0, TC), (group + 1) * M
    at, mask = offsets(c, p, C, P, LAST), inside(c < end, p, P)
    v = taken(x, at, mask)
    mean = tl.sum(v, 1) / P
    s = tl.sum(mean[:, None] * v, 0)[None, :]
    centre = tl.sum(s, 1) / P
    d = tl.where((p < P)[None, :], s - centre[:, None], 0.0)
    spread = tl.sqrt(tl.sum(d * d, 1) / tl.maximum(P - 1, 1))
    t = d / (spread + eps)[:, None]
    u = tl.load(weight + row)[:, None] * t + tl.load(bias + row)[:, None]
    f = factors(u, w, b, row, row < G, G, ORDER)
    tl.store(y + at, v * f, mask=mask)
    tl.store(means + n * C + c, mean, mask=c < end)
    tl.store(centres + n * G + row, centre)
    tl.store(spreads + n * G + row, spread)


@triton.jit(do_not_specialize=["C", "P", "G"])
def group_gate_backward(
    g: tl.tensor,
    x: tl.tensor,
    means: tl.tensor,
    centres: tl.tensor,
    spreads: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    w: tl.tensor,
    b: tl.tensor,
    dx: tl.tensor,
    dweight: tl.tensor,
    dbias: tl.tensor,
    dw_sums: tl.tensor,
    db_sums: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    G: tl.tensor,
    eps: tl.tensor,
    ORDER: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    C, P = aligned(C, P, V, LAST, WIDE)
    n, group = _group(G)
    g, x, dx = g + n * C * P, x + n * C * P, dx + n * C * P
    row, p = group + tl.arange(0, 1), tl.arange(0, TP)
    M = _size(C, G, V, LAST)
    c, end = group * M + tl.arange(0, TC), (group + 1) * M
    at, mask = offsets(c, p, C, P, LAST), inside(c < end, p, P)
    v, over = taken(x, at, mask), taken(g, at, mask)
    mean = taken(means, n * C + c, c < end)[:, None]
    centre, spread = tl.load(centres + n * G + row), tl.load(spreads + n * G + row)
    d = tl.where((p < P)[None, :], tl.sum(mean * v, 0)[None, :] - centre[:, None], 0.0)
    t = d / (spread + eps)[:, None]
    slope = tl.load(weight + row)
    u = slope[:, None] * t + tl.load(bias + row)[:, None]
    f, du, dw, db = slopes(u, tl.sum(over * v, 0)[None, :], w, b, row, row < G, G, ORDER, K)
    total, along = tl.sum(du, 1), tl.sum(du * t, 1)
    ds = _gradient_of_map(du, t, total, along, slope, spread, eps, P)
    rest = tl.sum(ds * v, 1) / P
    tl.store(dx + at, over * f + ds * mean + rest[:, None], mask=mask)
    tl.store(dweight + n * G + row, along)
    tl.store(dbias + n * G + row, total)
    keep(dw, db, dw_sums, db_sums, n, row, row < G, G, ORDER, K)


@triton.jit
def _part_of_group(G: tl.tensor, P: tl.tensor, TP: tl.constexpr) -> tuple:
    """The image, group and places of this program."""
    parts = tl.cdiv(P, TP)
    program = tl.program_id(0)
    return (program // parts // G).to(tl.int64), program // parts % G, program % parts * TP + tl.arange(0, TP)


@triton.jit(do_not_specialize=["C", "P", "G"])
def group_maps(
    g: tl.tensor,
    x: tl.tensor,
    means: tl.tensor,
    maps: tl.tensor,
    dots: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    G: tl.tensor,
    GRADIENT: tl.constexpr,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    """The maps, (N, G, P): the sums of mean * x over the group; and those of g * x, if GRADIENT."""
    C, P = aligned(C, P, V, LAST, WIDE)
    n, group, p = _part_of_group(G, P, TP)
    x = x + n * C * P
    if GRADIENT:
        g = g + n * C * P
    M = _size(C, G, V, LAST)
    end = (group + 1) * M
    total = tl.zeros([TC, TP], tl.float32)
    dot = tl.zeros([TC, TP], tl.float32)
    for start in range(group * M, end, TC):
        c = start + tl.arange(0, TC)
        at, mask = offsets(c, p, C, P, LAST), inside(c < end, p, P)
        v = taken(x, at, mask)
        total += taken(means, n * C + c, c < end)[:, None] * v
        if GRADIENT:
            dot += taken(g, at, mask) * v
    place = (n * G + group) * P + p
    tl.store(maps + place, tl.sum(total, 0), mask=p < P)
    if GRADIENT:
        tl.store(dots + place, tl.sum(dot, 0), mask=p < P)


@triton.jit(do_not_specialize=["G", "P"])
def map_factors(
    maps: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    w: tl.tensor,
    b: tl.tensor,
    f: tl.tensor,
    centres: tl.tensor,
    spreads: tl.tensor,
    G: tl.tensor,
    P: tl.tensor,
    eps: tl.tensor,
    ORDER: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    """The factors of one map."""
    n, group = _group(G)
    row, places = group + tl.arange(0, 1), tl.arange(0, TP)
    plane = (n * G + row)[:, None]
    total = tl.zeros([1, TP], tl.float32)
    for start in range(0, P, TP):
        p = (start + places)[None, :]
        total += taken(maps, plane * P + p, p < P)
    centre = tl.sum(total, 1) / P
    total = tl.zeros([1, TP], tl.float32)
    for start in range(0, P, TP):
        p = (start + places)[None, :]
        d = tl.where(p < P, taken(maps, plane * P + p, p < P) - centre[:, None], 0.0)
        total += d * d
    spread = tl.sqrt(tl.sum(total, 1) / tl.maximum(P - 1, 1))
    slope, shift = tl.load(weight + row)[:, None], tl.load(bias + row)[:, None]
    for start in range(0, P, TP):
        p = (start + places)[None, :]
        t = (taken(maps, plane * P + p, p < P) - centre[:, None]) / (spread + eps)[:, None]
        tl.store(f + plane * P + p, factors(slope * t + shift, w, b, row, row < G, G, ORDER), mask=p < P)
    tl.store(centres + n * G + row, centre)
    tl.store(spreads + n * G + row, spread)


@triton.jit(do_not_specialize=["G", "P"])
def map_slopes(
    maps: tl.tensor,
    dots: tl.tensor,
    centres: tl.tensor,
    spreads: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    w: tl.tensor,
    b: tl.tensor,
    f: tl.tensor,
    dmaps: tl.tensor,
    dweight: tl.tensor,
    dbias: tl.tensor,
    dw_sums: tl.tensor,
    db_sums: tl.tensor,
    G: tl.tensor,
    P: tl.tensor,
    eps: tl.tensor,
    ORDER: tl.constexpr,
    K: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    """The factors of one map and its gradient, from that of the factors."""
    n, group = _group(G)
    row, places = group + tl.arange(0, 1), tl.arange(0, TP)
    plane = (n * G + row)[:, None]
    centre, spread = tl.load(centres + n * G + row), tl.load(spreads + n * G + row)
    slope, shift = tl.load(weight + row), tl.load(bias + row)[:, None]
    totals = tl.zeros([1, TP], tl.float32)
    alongs = tl.zeros([1, TP], tl.float32)
    dw = tl.zeros([1, K], tl.float32)
    db = tl.zeros([1, K], tl.float32)
    for start in range(0, P, TP):
        p = (start + places)[None, :]
        t = (taken(maps, plane * P + p, p < P) - centre[:, None]) / (spread + eps)[:, None]
        d = taken(dots, plane * P + p, p < P)
        factor, du, more_w, more_b = slopes(slope[:, None] * t + shift, d, w, b, row, row < G, G, ORDER, K)
        tl.store(f + plane * P + p, factor, mask=p < P)
        totals += du
        alongs += du * t
        dw += more_w
        db += more_b
    total, along = tl.sum(totals, 1), tl.sum(alongs, 1)
    for start in range(0, P, TP):
        p = (start + places)[None, :]
        t = (taken(maps, plane * P + p, p < P) - centre[:, None]) / (spread + eps)[:, None]
        d = taken(dots, plane * P + p, p < P)
        factor, du, more_w, more_b = slopes(slope[:, None] * t + shift, d, w, b, row, row < G, G, ORDER, K)
        ds = _gradient_of_map(du, t, total, along, slope, spread, eps, P)
        tl.store(dmaps + plane * P + p, ds, mask=p < P)
    tl.store(dweight + n * G + row, along)
    tl.store(dbias + n * G + row, total)
    keep(dw, db, dw_sums, db_sums, n, row, row < G, G, ORDER, K)


@triton.jit
def _map_values(
    maps: tl.tensor, n: tl.tensor, c: tl.tensor, p: tl.tensor, C: tl.tensor, P: tl.tensor, G: tl.tensor, mask: tl.tensor
) -> tl.tensor:
    """The values of each channel's map, (channels, places)."""
    return tl.load(maps + (n * G + c // (C // G))[:, None] * P + p[None, :], mask=mask, other=0.0)


@triton.jit(do_not_specialize=["C", "P", "G"])
def map_dot(
    x: tl.tensor,
    maps: tl.tensor,
    dots: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    G: tl.tensor,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    """The mean of x * map over each plane."""
    C, P = aligned(C, P, V, LAST, WIDE)
    n, c, places = spot(C, TP, TC, TP, LAST)
    x = x + n * C * P
    total = tl.zeros([TC, TP], tl.float32)
    for start in range(0, P, TP):
        p = start + places
        mask = inside(c < C, p, P)
        total += taken(x, offsets(c, p, C, P, LAST), mask) * _map_values(maps, n, c, p, C, P, G, mask)
    tl.store(dots + n * C + c, tl.sum(total, 1) / P, mask=c < C)


@triton.jit(do_not_specialize=["C", "P", "G"])
def map_combine(
    g: tl.tensor,
    f: tl.tensor,
    dmaps: tl.tensor,
    means: tl.tensor,
    rest: tl.tensor,
    dx: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    G: tl.tensor,
    REST: tl.constexpr,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    """g * f, and dmaps * mean + rest more if REST; f and dmaps: (N, G, P)."""
    C, P = aligned(C, P, V, LAST, WIDE)
    n, c, p = spot(C, P, TC, TP, LAST)
    g, dx = g + n * C * P, dx + n * C * P
    at, mask = offsets(c, p, C, P, LAST), inside(c < C, p, P)
    d = taken(g, at, mask) * _map_values(f, n, c, p, C, P, G, mask)
    if REST:
        d += taken(means, n * C + c, c < C)[:, None] * _map_values(dmaps, n, c, p, C, P, G, mask)
        d += taken(rest, n * C + c, c < C)[:, None]
    tl.store(dx + at, d, mask=mask)
