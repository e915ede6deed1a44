"""Means of rows and columns, and products with one factor a row and one a column.

Tiles are boxes of channels x rows x columns, as wide as the plane.
"""

from __future__ import annotations

import triton
import triton.language as tl

from regard.attention.ops.gpu.address import aligned, spot


@triton.jit
def _offsets(
    c: tl.tensor, h: tl.tensor, w: tl.tensor, C: tl.tensor, H: tl.tensor, W: tl.tensor, LAST: tl.constexpr
) -> tl.tensor:
    """(channels, rows, columns)"""
    c, h, w = c[:, None, None], h[None, :, None], w[None, None, :]
    if LAST:
        return (h * W + w) * C + c
    else:
        return (c * H + h) * W + w


@triton.jit
def _inside(c: tl.tensor, h: tl.tensor, w: tl.tensor, C: tl.tensor, H: tl.tensor, W: tl.tensor) -> tl.tensor:
    return (c < C)[:, None, None] & (h < H)[None, :, None] & (w < W)[None, None, :]


@triton.jit
def _lines(pointer: tl.tensor, n: tl.tensor, c: tl.tensor, i: tl.tensor, C: tl.tensor, size: tl.tensor) -> tl.tensor:
    """Values of rows or columns, (channels, rows or columns)."""
    mask = (c < C)[:, None] & (i < size)[None, :]
    return tl.load(pointer + (n * C + c)[:, None] * size + i[None, :], mask=mask, other=0.0)


@triton.jit
def _keep(
    pointer: tl.tensor, value: tl.tensor, n: tl.tensor, c: tl.tensor, i: tl.tensor, C: tl.tensor, size: tl.tensor
) -> None:
    mask = (c < C)[:, None] & (i < size)[None, :]
    tl.store(pointer + (n * C + c)[:, None] * size + i[None, :], value, mask=mask)


@triton.jit(do_not_specialize=["C", "H", "W"])
def cross_statistics(
    x: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    C: tl.tensor,
    H: tl.tensor,
    W: tl.tensor,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
) -> None:
    C, W = aligned(C, W, V, LAST, WIDE)
    n, c, _ = spot(C, 1, TC, 1, LAST)
    x = x + n * C * H * W
    w = tl.arange(0, TW)
    total = tl.zeros([TC, TH, TW], tl.float32)
    for start in range(0, H, TH):
        h = start + tl.arange(0, TH)
        at, mask = _offsets(c, h, w, C, H, W, LAST), _inside(c, h, w, C, H, W)
        v = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        total += v
        _keep(rows, tl.sum(v, 2) / W, n, c, h, C, H)
    _keep(columns, tl.sum(total, 1) / H, n, c, w, C, W)


@triton.jit(do_not_specialize=["C", "H", "W"])
def cross_dot(
    g: tl.tensor,
    x: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    drows: tl.tensor,
    dcolumns: tl.tensor,
    C: tl.tensor,
    H: tl.tensor,
    W: tl.tensor,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
) -> None:
    C, W = aligned(C, W, V, LAST, WIDE)
    n, c, _ = spot(C, 1, TC, 1, LAST)
    g, x = g + n * C * H * W, x + n * C * H * W
    w = tl.arange(0, TW)
    column = _lines(columns, n, c, w, C, W)[:, None, :]
    total = tl.zeros([TC, TH, TW], tl.float32)
    for start in range(0, H, TH):
        h = start + tl.arange(0, TH)
        at, mask = _offsets(c, h, w, C, H, W, LAST), _inside(c, h, w, C, H, W)
        v = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) * tl.load(g + at, mask=mask, other=0.0).to(tl.float32)
        total += v * _lines(rows, n, c, h, C, H)[:, :, None]
        _keep(drows, tl.sum(v * column, 2), n, c, h, C, H)
    _keep(dcolumns, tl.sum(total, 1), n, c, w, C, W)


@triton.jit(do_not_specialize=["C", "H", "W"])
def cross_combine(
    g: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    row_rest: tl.tensor,
    column_rest: tl.tensor,
    dx: tl.tensor,
    C: tl.tensor,
    H: tl.tensor,
    W: tl.tensor,
    REST: tl.constexpr,
    V: tl.constexpr,
    LAST: tl.constexpr,
    WIDE: tl.constexpr,
    TC: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
) -> None:
    """g * rows * columns, and the rests more if REST."""
    C, W = aligned(C, W, V, LAST, WIDE)
    n, c, h = spot(C, H, TC, TH, LAST)
    g, dx = g + n * C * H * W, dx + n * C * H * W
    w = tl.arange(0, TW)
    at, mask = _offsets(c, h, w, C, H, W, LAST), _inside(c, h, w, C, H, W)
    d = tl.load(g + at, mask=mask, other=0.0).to(tl.float32)
    d = d * _lines(rows, n, c, h, C, H)[:, :, None] * _lines(columns, n, c, w, C, W)[:, None, :]
    if REST:
        d += _lines(row_rest, n, c, h, C, H)[:, :, None] + _lines(column_rest, n, c, w, C, W)[:, None, :]
    tl.store(dx + at, d, mask=mask)
