"""Sums over channels and statistics of them at each place, and products with one factor a place."""

from __future__ import annotations

import triton
import triton.language as tl

from regard.attention.ops.gpu.address import aligned, inside, offsets, spot, taken
from regard.attention.ops.gpu.plane import NOWHERE, larger, largest


@triton.jit(do_not_specialize=["C", "P"])
def place_statistics(
    x: tl.tensor,
    f: tl.tensor,
    means: tl.tensor,
    tops: tl.tensor,
    where: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    C, P = aligned(C, P, V, LAST, WIDE)
    n, channels, p = spot(TC, P, TC, TP, LAST)
    x = x + n * C * P
    total = tl.zeros([TC, TP], tl.float32)
    top = tl.full([TC, TP], float("-inf"), tl.float32)
    best = tl.full([TC, TP], NOWHERE, tl.int32)
    for start in range(0, C, TC):
        c = start + channels
        mask = inside(c < C, p, P)
        v = taken(x, offsets(c, p, C, P, LAST), mask) * taken(f, n * C + c, c < C)[:, None]
        total += v
        top, best = larger(v, c[:, None], top, best, mask)
    value, channel = largest(top, best, 0)
    tl.store(means + n * P + p, tl.sum(total, 0) / C, mask=p < P)
    tl.store(tops + n * P + p, value, mask=p < P)
    tl.store(where + n * P + p, channel, mask=p < P)


@triton.jit(do_not_specialize=["C", "P"])
def place_dot(
    g: tl.tensor,
    x: tl.tensor,
    f: tl.tensor,
    dots: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    GRADIENT: tl.constexpr,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    """The sum of g * x * f over the channels; of x * f, if not GRADIENT."""
    C, P = aligned(C, P, V, LAST, WIDE)
    n, channels, p = spot(TC, P, TC, TP, LAST)
    x = x + n * C * P
    if GRADIENT:
        g = g + n * C * P
    total = tl.zeros([TC, TP], tl.float32)
    for start in range(0, C, TC):
        c = start + channels
        at, mask = offsets(c, p, C, P, LAST), inside(c < C, p, P)
        v = taken(x, at, mask) * taken(f, n * C + c, c < C)[:, None]
        if GRADIENT:
            v *= taken(g, at, mask)
        total += v
    tl.store(dots + n * P + p, tl.sum(total, 0), mask=p < P)


@triton.jit(do_not_specialize=["C", "P"])
def place_scale(
    x: tl.tensor,
    f: tl.tensor,
    m: tl.tensor,
    y: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    C, P = aligned(C, P, V, LAST, WIDE)
    n, c, p = spot(C, P, TC, TP, LAST)
    x, y = x + n * C * P, y + n * C * P
    at, mask = offsets(c, p, C, P, LAST), inside(c < C, p, P)
    factor = taken(f, n * C + c, c < C)[:, None] * taken(m, n * P + p, p < P)[None, :]
    tl.store(y + at, taken(x, at, mask) * factor, mask=mask)


@triton.jit
def _reach(
    g: tl.tensor,
    m: tl.tensor,
    rest: tl.tensor,
    peak: tl.tensor,
    where: tl.tensor,
    n: tl.tensor,
    c: tl.tensor,
    p: tl.tensor,
    at: tl.tensor,
    mask: tl.tensor,
    P: tl.tensor,
) -> tl.tensor:
    """The gradient of x * f: g * m + rest, and `peak` more at the channel `where`."""
    place, ok = n * P + p, p < P
    channel = tl.load(where + place, mask=ok, other=-1)[None, :]
    more = tl.where(channel == c[:, None], taken(peak, place, ok)[None, :], 0.0)
    return taken(g, at, mask) * taken(m, place, ok)[None, :] + taken(rest, place, ok)[None, :] + more


@triton.jit(do_not_specialize=["C", "P"])
def place_plane_dot(
    g: tl.tensor,
    x: tl.tensor,
    m: tl.tensor,
    rest: tl.tensor,
    peak: tl.tensor,
    where: tl.tensor,
    dots: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    C, P = aligned(C, P, V, LAST, WIDE)
    n, c, places = spot(C, TP, TC, TP, LAST)
    g, x = g + n * C * P, x + n * C * P
    total = tl.zeros([TC, TP], tl.float32)
    for start in range(0, P, TP):
        p = start + places
        at, mask = offsets(c, p, C, P, LAST), inside(c < C, p, P)
        total += taken(x, at, mask) * _reach(g, m, rest, peak, where, n, c, p, at, mask, P)
    tl.store(dots + n * C + c, tl.sum(total, 1), mask=c < C)


@triton.jit(do_not_specialize=["C", "P"])
def place_combine(
    g: tl.tensor,
    f: tl.tensor,
    m: tl.tensor,
    rest: tl.tensor,
    peak: tl.tensor,
    where: tl.tensor,
    plane_rest: tl.tensor,
    plane_peak: tl.tensor,
    plane_where: tl.tensor,
    dx: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    C, P = aligned(C, P, V, LAST, WIDE)
    n, c, p = spot(C, P, TC, TP, LAST)
    g, dx = g + n * C * P, dx + n * C * P
    at, mask = offsets(c, p, C, P, LAST), inside(c < C, p, P)
    plane, ok = n * C + c, c < C
    d = taken(f, plane, ok)[:, None] * _reach(g, m, rest, peak, where, n, c, p, at, mask, P)
    place = tl.load(plane_where + plane, mask=ok, other=-1)[:, None]
    more = tl.where(place == p[None, :], taken(plane_peak, plane, ok)[:, None], 0.0)
    tl.store(dx + at, d + taken(plane_rest, plane, ok)[:, None] + more, mask=mask)
