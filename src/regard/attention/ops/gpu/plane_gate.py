"""The plane gate: statistics, gate, product and channel shuffle in one pass."""

from __future__ import annotations

import triton
import triton.language as tl

from regard.attention.ops.gpu.address import aligned, inside, offsets, spot, taken
from regard.attention.ops.gpu.gate import factors, keep, slopes
from regard.attention.ops.gpu.plane import moments


@triton.jit
def _channels(C: tl.tensor, V: tl.constexpr, SHUFFLE: tl.constexpr, LAST: tl.constexpr, TC: tl.constexpr) -> tuple:
    """The image of this program; its channels in x, and which are there; its channels in y, and which are there.

    Shuffled channels last, the first half of the tile is of the first half of the channels, and the second of the
    second; `_paired` turns them into the order of y.
    """
    if SHUFFLE and LAST:
        row = tl.arange(0, TC)
        blocks = tl.cdiv(C, TC)
        start = tl.program_id(0) % blocks * (TC // 2)
        half = C // V * (V // 2)
        i = start + row % (TC // 2)
        to = start * 2 + row
        return (tl.program_id(0) // blocks).to(tl.int64), row // (TC // 2) * half + i, i < half, to, to < C
    else:
        n, c, _ = spot(C, 1, TC, 1, LAST)
        if SHUFFLE:
            half = C // 2
            return n, c, c < C, c % half * 2 + c // half, c < C
        else:
            return n, c, c < C, c, c < C


@triton.jit
def _paired(y: tl.tensor, SHUFFLE: tl.constexpr, LAST: tl.constexpr) -> tl.tensor:
    """A tile in the order of x -> in that of y."""
    if SHUFFLE and LAST:
        halves = tl.reshape(y, [2, y.shape[0] // 2, y.shape[1]])
        return tl.reshape(tl.permute(halves, [1, 0, 2]), [y.shape[0], y.shape[1]])
    else:
        return y


@triton.jit
def _parted(y: tl.tensor, SHUFFLE: tl.constexpr, LAST: tl.constexpr) -> tl.tensor:
    """A tile in the order of y -> in that of x."""
    if SHUFFLE and LAST:
        pairs = tl.reshape(y, [y.shape[0] // 2, 2, y.shape[1]])
        return tl.reshape(tl.permute(pairs, [1, 0, 2]), [y.shape[0], y.shape[1]])
    else:
        return y


@triton.jit
def _normal(v: tl.tensor, mean: tl.tensor, rstd: tl.tensor, local: tl.tensor) -> tl.tensor:
    """What the logits are made of: normalised values, or the mean of the plane."""
    return tl.where(local[:, None], (v - mean[:, None]) * rstd[:, None], mean[:, None])


@triton.jit(do_not_specialize=["C", "P"])
def plane_gate_forward(
    x: tl.tensor,
    y: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    local: tl.tensor,
    w: tl.tensor,
    b: tl.tensor,
    means: tl.tensor,
    rstds: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    eps: tl.tensor,
    ORDER: tl.constexpr,
    SHUFFLE: tl.constexpr,
    WHOLE: tl.constexpr,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    C, P = aligned(C, P, V, LAST, WIDE)
    n, c, ok, to, ok_to = _channels(C, V, SHUFFLE, LAST, TC)
    x, y = x + n * C * P, y + n * C * P
    s, e = taken(scale, c, ok)[:, None], taken(shift, c, ok)[:, None]
    within = tl.load(local + c, mask=ok, other=0) != 0
    p = tl.arange(0, TP)
    if WHOLE:
        v = taken(x, offsets(c, p, C, P, LAST), inside(ok, p, P))
        mean = tl.sum(v, 1) / P
        d = tl.where(inside(ok, p, P), v - mean[:, None], 0.0)
        deviation = tl.sum(d * d, 1)
    else:
        mean, deviation = moments(x, c, ok, C, P, LAST, TC, TP)
    rstd = tl.where(within, 1.0 / tl.sqrt(deviation / P + eps), 0.0)
    tl.store(means + n * C + c, mean, mask=ok)
    tl.store(rstds + n * C + c, rstd, mask=ok)
    if WHOLE:
        f = factors(s * _normal(v, mean, rstd, within) + e, w, b, c, ok, C, ORDER)
        product = _paired((v * f).to(y.dtype.element_ty), SHUFFLE, LAST)
        tl.store(y + offsets(to, p, C, P, LAST), product, mask=inside(ok_to, p, P))
    else:
        for start in range(0, P, TP):
            at = start + p
            v = taken(x, offsets(c, at, C, P, LAST), inside(ok, at, P))
            f = factors(s * _normal(v, mean, rstd, within) + e, w, b, c, ok, C, ORDER)
            product = _paired((v * f).to(y.dtype.element_ty), SHUFFLE, LAST)
            tl.store(y + offsets(to, at, C, P, LAST), product, mask=inside(ok_to, at, P))


@triton.jit
def _direct(g: tl.tensor, f: tl.tensor, du: tl.tensor, slope: tl.tensor, local: tl.tensor) -> tl.tensor:
    """dx, but for what goes through statistics."""
    return g * f + tl.where(local, slope, 0.0)[:, None] * du


@triton.jit
def _through_statistics(
    v: tl.tensor,
    mean: tl.tensor,
    rstd: tl.tensor,
    slope: tl.tensor,
    local: tl.tensor,
    total: tl.tensor,
    along: tl.tensor,
    P: tl.tensor,
) -> tl.tensor:
    """What goes through them, from the sums of du over the plane: plain, and along the normalised values."""
    rest = tl.where(local, -slope, slope) * total / P
    bend = tl.where(local, -slope * along * rstd / P, 0.0)
    return rest[:, None] + bend[:, None] * (v - mean[:, None])


@triton.jit(do_not_specialize=["C", "P"])
def plane_gate_backward(
    g: tl.tensor,
    x: tl.tensor,
    means: tl.tensor,
    rstds: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    local: tl.tensor,
    w: tl.tensor,
    b: tl.tensor,
    dx: tl.tensor,
    dscale: tl.tensor,
    dshift: tl.tensor,
    dw_sums: tl.tensor,
    db_sums: tl.tensor,
    C: tl.tensor,
    P: tl.tensor,
    ORDER: tl.constexpr,
    K: tl.constexpr,
    SHUFFLE: tl.constexpr,
    WHOLE: tl.constexpr,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TP: tl.constexpr,
) -> None:
    C, P = aligned(C, P, V, LAST, WIDE)
    n, c, ok, to, ok_to = _channels(C, V, SHUFFLE, LAST, TC)
    g, x, dx = g + n * C * P, x + n * C * P, dx + n * C * P
    plane = n * C + c
    s, e = taken(scale, c, ok), taken(shift, c, ok)[:, None]
    within = tl.load(local + c, mask=ok, other=0) != 0
    mean, rstd = taken(means, plane, ok), taken(rstds, plane, ok)
    slope = tl.where(within, s * rstd, s)
    places = tl.arange(0, TP)
    if WHOLE:
        at, mask = offsets(c, places, C, P, LAST), inside(ok, places, P)
        v = taken(x, at, mask)
        over = tl.load(g + offsets(to, places, C, P, LAST), mask=inside(ok_to, places, P), other=0.0)
        over = _parted(over, SHUFFLE, LAST).to(tl.float32)
        t = _normal(v, mean, rstd, within)
        f, du, dw, db = slopes(s[:, None] * t + e, over * v, w, b, c, ok, C, ORDER, K)
        d = _direct(over, f, du, slope, within)
        total, along = tl.sum(du, 1), tl.sum(du * t, 1)
        tl.store(dx + at, d + _through_statistics(v, mean, rstd, slope, within, total, along, P), mask=mask)
    else:
        totals = tl.zeros([TC, TP], tl.float32)
        alongs = tl.zeros([TC, TP], tl.float32)
        dw = tl.zeros([TC, K], tl.float32)
        db = tl.zeros([TC, K], tl.float32)
        for start in range(0, P, TP):
            p = start + places
            v = taken(x, offsets(c, p, C, P, LAST), inside(ok, p, P))
            over = tl.load(g + offsets(to, p, C, P, LAST), mask=inside(ok_to, p, P), other=0.0)
            t = _normal(v, mean, rstd, within)
            d = _parted(over, SHUFFLE, LAST).to(tl.float32) * v
            f, du, more_w, more_b = slopes(s[:, None] * t + e, d, w, b, c, ok, C, ORDER, K)
            totals += du
            alongs += du * t
            dw += more_w
            db += more_b
        total, along = tl.sum(totals, 1), tl.sum(alongs, 1)
        for start in range(0, P, TP):
            p = start + places
            at, mask = offsets(c, p, C, P, LAST), inside(ok, p, P)
            v = taken(x, at, mask)
            over = tl.load(g + offsets(to, p, C, P, LAST), mask=inside(ok_to, p, P), other=0.0)
            over = _parted(over, SHUFFLE, LAST).to(tl.float32)
            t = _normal(v, mean, rstd, within)
            f, du, more_w, more_b = slopes(s[:, None] * t + e, over * v, w, b, c, ok, C, ORDER, K)
            d = _direct(over, f, du, slope, within)
            tl.store(dx + at, d + _through_statistics(v, mean, rstd, slope, within, total, along, P), mask=mask)
    tl.store(dscale + plane, along, mask=ok)
    tl.store(dshift + plane, total, mask=ok)
    keep(dw, db, dw_sums, db_sums, n, c, ok, C, ORDER, K)
