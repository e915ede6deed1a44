"""The gate on a tile of logits, sigmoid(u[0]) * … * sigmoid(u[ORDER]) with u[k + 1] = w[k] u[k] + b[k].

w and b are one value a row of the tile: at k * step + row.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _next(
    u: tl.tensor, w: tl.tensor, b: tl.tensor, row: tl.tensor, ok: tl.tensor, step: tl.tensor, k: tl.constexpr
) -> tl.tensor:
    slope = tl.load(w + k * step + row, mask=ok, other=0.0)
    return slope[:, None] * u + tl.load(b + k * step + row, mask=ok, other=0.0)[:, None]


@triton.jit
def _logits(
    u: tl.tensor, w: tl.tensor, b: tl.tensor, row: tl.tensor, ok: tl.tensor, step: tl.tensor, ORDER: tl.constexpr
) -> tl.tensor:
    for k in tl.static_range(ORDER):
        u = _next(u, w, b, row, ok, step, k)
    return u


@triton.jit
def factors(
    u: tl.tensor, w: tl.tensor, b: tl.tensor, row: tl.tensor, ok: tl.tensor, step: tl.tensor, ORDER: tl.constexpr
) -> tl.tensor:
    """The gate, with one division."""
    inverse = 1.0 + tl.exp(-u)
    for k in tl.static_range(ORDER):
        u = _next(u, w, b, row, ok, step, k)
        inverse *= 1.0 + tl.exp(-u)
    return 1.0 / inverse


@triton.jit
def _rest(u: tl.tensor) -> tl.tensor:
    return 1.0 - 1.0 / (1.0 + tl.exp(-u))


@triton.jit
def slopes(
    u: tl.tensor,
    d: tl.tensor,
    w: tl.tensor,
    b: tl.tensor,
    row: tl.tensor,
    ok: tl.tensor,
    step: tl.tensor,
    ORDER: tl.constexpr,
    K: tl.constexpr,
) -> tuple:
    """From d, the gradient of the factors: these, the gradient of u, and row by row those of w and b, (rows, K)."""
    f = factors(u, w, b, row, ok, step, ORDER)
    d = d * f
    reach = _rest(_logits(u, w, b, row, ok, step, ORDER))  # of u[k + 1], over d
    order = tl.arange(0, K)[None, :]
    dw = tl.zeros([u.shape[0], K], tl.float32)
    db = tl.zeros([u.shape[0], K], tl.float32)
    for j in tl.static_range(ORDER):
        below = _logits(u, w, b, row, ok, step, ORDER - 1 - j)
        above = d * reach
        dw = tl.where(order == ORDER - 1 - j, tl.sum(above * below, 1)[:, None], dw)
        db = tl.where(order == ORDER - 1 - j, tl.sum(above, 1)[:, None], db)
        slope = tl.load(w + (ORDER - 1 - j) * step + row, mask=ok, other=0.0)[:, None]
        reach = slope * reach + _rest(below)
    return f, d * reach, dw, db


@triton.jit
def keep(
    dw: tl.tensor,
    db: tl.tensor,
    dw_sums: tl.tensor,
    db_sums: tl.tensor,
    n: tl.tensor,
    row: tl.tensor,
    ok: tl.tensor,
    step: tl.tensor,
    ORDER: tl.constexpr,
    K: tl.constexpr,
) -> None:
    """Stores the gradients of w and b of image n, (N, ORDER, step)."""
    if ORDER:
        k = tl.arange(0, K)[None, :]
        at = (n * ORDER + k) * step + row[:, None]
        mask = ok[:, None] & (k < ORDER)
        tl.store(dw_sums + at, dw, mask=mask)
        tl.store(db_sums + at, db, mask=mask)
