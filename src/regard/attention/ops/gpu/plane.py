"""Statistics of planes and sums over them, and products with one factor a plane."""

from __future__ import annotations

import triton
import triton.language as tl

from regard.attention.ops.gpu.address import aligned, inside, offsets, spot, taken

NOWHERE = tl.constexpr(2**31 - 1)


@triton.jit
def moments(
    x: tl.tensor,
    c: tl.tensor,
    ok: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    LAST: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> tuple:
    """Mean and sum of squared deviations of planes of any size, in one reading. x begins with the image."""
    places = tl.arange(0, TP)
    first = taken(x, offsets(c, places, C, P, LAST), inside(ok, places, P))
    pivot = tl.sum(first, 1) / tl.minimum(P, TP)
    total = tl.zeros([TC, TP], tl.float32)
    squares = tl.zeros([TC, TP], tl.float32)
    for start in range(0, P, TP):
        p = start + places
        mask = inside(ok, p, P)
        d = tl.where(mask, taken(x, offsets(c, p, C, P, LAST), mask) - pivot[:, None], 0.0)
        total += d
        squares += d * d
    shift = tl.sum(total, 1) / P
    deviation = tl.sum(squares, 1) - shift * shift * P
    return pivot + shift, tl.where(deviation < 0, 0.0, deviation)


@triton.jit(do_not_specialize=["C", "P"])
def plane_statistics(
    x: tl.tensor,
    means: tl.tensor,
    variances: tl.tensor,
    tops: tl.tensor,
    where: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    VARIANCE: tl.constexpr,
    LARGEST: tl.constexpr,
    WHOLE: tl.constexpr,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    C, P = aligned(C, P, V, LAST, WIDE)
    n, c, places = spot(C, TP, TC, TP, LAST)
    x = x + n * C * P
    at = n * C + c
    if VARIANCE:
        if WHOLE:
            mask = inside(c < C, places, P)
            v = taken(x, offsets(c, places, C, P, LAST), mask)
            mean = tl.sum(v, 1) / P
            d = tl.where(mask, v - mean[:, None], 0.0)
            deviation = tl.sum(d * d, 1)
        else:
            mean, deviation = moments(x, c, c < C, C, P, LAST, TC, TP)
        tl.store(variances + at, deviation / tl.maximum(P - 1, 1), mask=c < C)
    total = tl.zeros([TC, TP], tl.float32)
    top = tl.full([TC, TP], float("-inf"), tl.float32)
    best = tl.full([TC, TP], NOWHERE, tl.int32)
    if LARGEST or not VARIANCE:
        for start in range(0, P, TP):
            p = start + places
            mask = inside(c < C, p, P)
            v = taken(x, offsets(c, p, C, P, LAST), mask)
            total += v
            if LARGEST:
                top, best = larger(v, p[None, :], top, best, mask)
    if not VARIANCE:
        mean = tl.sum(total, 1) / P
    if LARGEST:
        value, place = largest(top, best, 1)
        tl.store(tops + at, value, mask=c < C)
        tl.store(where + at, place, mask=c < C)
    tl.store(means + at, mean, mask=c < C)


@triton.jit
def larger(v: tl.tensor, at: tl.tensor, top: tl.tensor, best: tl.tensor, mask: tl.tensor) -> tuple:
    """The larger of v, found at `at`, and the earlier top, found at `best`; NaN is larger than all."""
    more = mask & ((v > top) | ((v != v) & (top == top)) | (best == NOWHERE))
    return tl.where(more, v, top), tl.where(more, at, best)


@triton.jit
def largest(top: tl.tensor, best: tl.tensor, AXIS: tl.constexpr) -> tuple:
    """The largest value along an axis, and where it comes first."""
    odd = top != top
    any_odd = tl.max(odd.to(tl.int32), AXIS)
    value = tl.max(tl.where(odd, float("-inf"), top), AXIS)
    same = tl.where(tl.expand_dims(any_odd, AXIS) > 0, odd, top == tl.expand_dims(value, AXIS))
    return tl.where(any_odd > 0, float("nan"), value), tl.min(tl.where(same, best, NOWHERE), AXIS)


@triton.jit(do_not_specialize=["C", "P"])
def plane_dot(
    g: tl.tensor,
    x: tl.tensor,
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
        total += taken(g, at, mask) * taken(x, at, mask)
    tl.store(dots + n * C + c, tl.sum(total, 1), mask=c < C)


@triton.jit(do_not_specialize=["C", "P"])
def plane_scale(
    x: tl.tensor,
    f: tl.tensor,
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
    factor = taken(f, n * C + c, c < C)[:, None]
    tl.store(y + at, taken(x, at, mask) * factor, mask=mask)


@triton.jit(do_not_specialize=["C", "P"])
def plane_combine(
    g: tl.tensor,
    f: tl.tensor,
    rest: tl.tensor,
    x: tl.tensor,
    slope: tl.tensor,
    peak: tl.tensor,
    where: tl.tensor,
    dx: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    SLOPE: tl.constexpr,
    PEAK: tl.constexpr,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    C, P = aligned(C, P, V, LAST, WIDE)
    n, c, p = spot(C, P, TC, TP, LAST)
    g, dx = g + n * C * P, dx + n * C * P
    if SLOPE:
        x = x + n * C * P
    at, mask = offsets(c, p, C, P, LAST), inside(c < C, p, P)
    plane, ok = n * C + c, c < C
    d = taken(g, at, mask) * taken(f, plane, ok)[:, None] + taken(rest, plane, ok)[:, None]
    if SLOPE:
        d += taken(slope, plane, ok)[:, None] * taken(x, at, mask)
    if PEAK:
        place = tl.load(where + plane, mask=ok, other=-1)[:, None]
        d += tl.where(place == p[None, :], taken(peak, plane, ok)[:, None], 0.0)
    tl.store(dx + at, d, mask=mask)
