"""Sums over places with weights, and the gradient that a context gate hands on."""

from __future__ import annotations

import triton
import triton.language as tl

from regard.attention.ops.gpu.address import aligned, inside, offsets, spot, taken


@triton.jit(do_not_specialize=["C", "P"])
def over_places(
    x: tl.tensor,
    a: tl.tensor,
    sums: tl.tensor,
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
    x = x + n * C * P
    total = tl.zeros([TC, TP], tl.float32)
    for start in range(0, P, TP):
        p = start + places
        weight = taken(a, n * P + p, p < P)[None, :]
        total += taken(x, offsets(c, p, C, P, LAST), inside(c < C, p, P)) * weight
    tl.store(sums + n * C + c, tl.sum(total, 1), mask=c < C)


@triton.jit(do_not_specialize=["C", "P"])
def context_combine(
    g: tl.tensor,
    f: tl.tensor,
    u: tl.tensor,
    a: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
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
    plane, place, channel, spread = n * C + c, n * P + p, c < C, p < P
    d = taken(g, at, mask) * taken(f, plane, channel)[:, None]
    d += taken(u, plane, channel)[:, None] * taken(a, place, spread)[None, :]
    d += taken(k, plane, channel)[:, None] * taken(v, place, spread)[None, :]
    tl.store(dx + at, d, mask=mask)
