"""The gate on a tile of logits (rows, pixels): sigmoid(u[0]) * … * sigmoid(u[ORDER]) with u[k + 1] = w[k] u[k] + b[k].

w and b are (ORDER, size); `row` contains the index in them of each row of the tile, `ok` whether the row exists.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _next(u, w, b, row, ok, size, k: tl.constexpr):
    """u[k + 1]"""
    slope = tl.load(w + k * size + row, mask=ok, other=0.0)
    return slope[:, None] * u + tl.load(b + k * size + row, mask=ok, other=0.0)[:, None]


@triton.jit
def factors(u, w, b, row, ok, size, ORDER: tl.constexpr):
    """The gate, computed with a single division."""
    inverse = 1.0 + tl.exp(-u)
    for k in tl.static_range(ORDER):
        u = _next(u, w, b, row, ok, size, k)
        inverse *= 1.0 + tl.exp(-u)
    return 1.0 / inverse


@triton.jit
def _complement(u):
    """1 - sigmoid(u)"""
    return 1.0 - 1.0 / (1.0 + tl.exp(-u))


@triton.jit
def slopes(u, d, w, b, row, ok, size, ORDER: tl.constexpr, K: tl.constexpr):
    """The factors and, from `d`, their gradient, the gradients of u and, per row, of w and b, (rows, K)."""
    f = factors(u, w, b, row, ok, size, ORDER)
    order = tl.arange(0, K)[None, :]
    dw = tl.zeros([u.shape[0], K], tl.float32)
    db = tl.zeros([u.shape[0], K], tl.float32)
    logits = u
    for k in tl.static_range(ORDER):
        logits = _next(logits, w, b, row, ok, size, k)
    du = d * f * _complement(logits)  # the gradient of u[ORDER], then of u[ORDER - 1], …
    for j in tl.static_range(ORDER):
        logits = u
        for k in tl.static_range(ORDER - 1 - j):
            logits = _next(logits, w, b, row, ok, size, k)
        dw = tl.where(order == ORDER - 1 - j, tl.sum(du * logits, 1)[:, None], dw)
        db = tl.where(order == ORDER - 1 - j, tl.sum(du, 1)[:, None], db)
        slope = tl.load(w + (ORDER - 1 - j) * size + row, mask=ok, other=0.0)[:, None]
        du = slope * du + d * f * _complement(logits)
    return f, du, dw, db


@triton.jit
def store_gradients(dw, db, dws, dbs, n, row, ok, size, ORDER: tl.constexpr, K: tl.constexpr):
    """Stores the gradients of w and b for image n in dws and dbs, (N, ORDER, size)."""
    if ORDER:
        k = tl.arange(0, K)[None, :]
        index = (n * ORDER + k) * size + row[:, None]
        mask = ok[:, None] & (k < ORDER)
        tl.store(dws + index, dw, mask=mask)
        tl.store(dbs + index, db, mask=mask)
