"""Gates of one factor a row and one a column of each channel's plane: coordinate attention.

In reads and writes of the features 7, as for channel gates: forward 2 and 1, backward 3 and 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from regard.attention.ops.autograd import again, laid_out, like, small
from regard.attention.ops.channel import Link
from regard.attention.ops.choice import kernels_for


def cross_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """The means of the rows (N, C, H) and of the columns (N, C, W) of each plane."""
    return x.mean(3), x.mean(2)


def cross_gated(x: Tensor, factors: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """`x * rows * columns` with `rows, columns = factors(*cross_statistics(x))`, in the dtype of `x`.

    Args:
        x: (N, C, H, W).
        factors: of the means of the rows (N, C, H) and of the columns (N, C, W), makes (N, C, H, 1) and (N, C, 1, W).
    """
    kernels = kernels_for(x, calls=2)
    if kernels is None:
        rows, columns = factors(*cross_statistics(x))
        return x * rows.to(x.dtype) * columns.to(x.dtype)
    link = Link()
    *means, carried = _Statistics.apply(laid_out(x), kernels, link)
    rows, columns = factors(*means)
    n, c, h, w = x.shape
    return _Scale.apply(carried, rows.expand(n, c, h, 1), columns.expand(n, c, 1, w), kernels, link)


class _Statistics(Function):
    """x -> the means of its rows and columns, and x; see `Link`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Any, link: Link) -> Any:
        rows, columns = kernels.cross_statistics(x)
        ctx.save_for_backward(x)
        ctx.kernels, ctx.link = kernels, link
        return rows.to(x.dtype), columns.to(x.dtype), x

    @staticmethod
    def backward(ctx: Any, drows: Tensor, dcolumns: Tensor, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        if ctx.link.whole:
            (dx,) = again(cross_statistics, [x], [drows, dcolumns])
            return g + dx if dx is not None else g, None, None
        rests = small(drows, x) / x.shape[3], small(dcolumns, x) / x.shape[2]
        factors = ctx.link.taken(x, x.shape[:3], x.shape[:2] + x.shape[3:])
        return ctx.kernels.cross_combine(like(g, x), *factors, *rests), None, None


class _Scale(Function):
    """x, rows (N, C, H, 1) and columns (N, C, 1, W) -> their product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, columns: Tensor, kernels: Any, link: Link) -> Tensor:
        ctx.save_for_backward(x, rows, columns)
        ctx.kernels, ctx.link = kernels, link
        return kernels.cross_scale(x, small(rows.flatten(2), x), small(columns.flatten(2), x))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, rows, columns = ctx.saved_tensors
        ctx.link.whole |= torch.is_grad_enabled()
        if ctx.link.whole:
            formula = again(lambda x, r, c: x * r.to(x.dtype) * c.to(x.dtype), [x, rows, columns], [g])
            return *formula, None, None
        ctx.link.factors = small(rows.flatten(2), x), small(columns.flatten(2), x)
        g = like(g, x)
        drows, dcolumns = ctx.kernels.cross_dot(g, x, *ctx.link.factors)
        return g, drows[..., None].to(rows.dtype), dcolumns[:, :, None].to(columns.dtype), None, None
