"""A gate of one factor a channel, and on what it leaves one of one factor a place: convolutional block attention.

The product of the features with the first factors is never written. In reads and writes of the features: forward 3 and
1, backward 5 and 1; two separate gates take 14, and torch's operations over 30.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from regard.attention.ops.autograd import again, laid_out, like, small
from regard.attention.ops.channel import Statistic, plane_rest, plane_statistics
from regard.attention.ops.choice import kernels_for

_STATISTICS: tuple[Statistic, ...] = ("mean", "max")


def place_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and largest value over the channels at each place of `x` (N, C, H, W), (N, 1, H, W) each."""
    return x.mean(1, keepdim=True), x.max(1, keepdim=True).values


def channel_place_gated(
    x: Tensor,
    channel_factors: Callable[[Tensor, Tensor], Tensor],
    place_factors: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """`z * place_factors(*place_statistics(z))` with `z = x * channel_factors(mean, max)`, in the dtype of `x`.

    Args:
        x: (N, C, H, W).
        channel_factors: of mean and largest value of each plane (N, C), makes (N, C, 1, 1).
        place_factors: of mean and largest value over the channels (N, 1, H, W), makes (N, 1, H, W).
    """
    kernels = kernels_for(x, calls=3)
    if kernels is None:
        z = x * channel_factors(*plane_statistics(x, _STATISTICS)).to(x.dtype)
        return z * place_factors(*place_statistics(z)).to(x.dtype)
    link = _Link()
    mean, top, carried = _PlaneStatistics.apply(laid_out(x), kernels, link)
    f = channel_factors(mean, top).expand(*x.shape[:2], 1, 1)
    mean, top, carried = _PlaceStatistics.apply(carried, f, kernels, link)
    m = place_factors(mean, top).expand(len(x), 1, *x.shape[2:])
    return _Scale.apply(carried, f, m, kernels, link)


class _Link:
    """What the three functions tell each other in a backward pass; see `channel.Link`. g is handed back twice."""

    m: Tensor | None = None  # the factors of the places (N, P), where `_Scale` ran
    f: Tensor  # the factors of the channels (N, C)
    # What the statistics of the places add, as kernels take it, where `_PlaceStatistics` ran.
    reaching: tuple[Tensor, Tensor, Tensor] | None = None
    whole: bool = False

    def places(self, x: Tensor) -> Tensor:
        """The factors of the places; ones where `_Scale` did not run in this backward pass, and g is 0."""
        return self.m if self.m is not None else small(x.new_ones(()), x, len(x), x.shape[2] * x.shape[3])


class _PlaneStatistics(Function):
    """x -> mean and largest value of each plane, and x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Any, link: _Link) -> Any:
        mean, _, top, where = kernels.plane_statistics(x, False, True)
        ctx.save_for_backward(x, mean, where)
        ctx.kernels, ctx.link = kernels, link
        return mean.to(x.dtype), top.to(x.dtype), x

    @staticmethod
    def backward(ctx: Any, dmean: Tensor, dtop: Tensor, g: Tensor) -> Any:
        x, mean, where = ctx.saved_tensors
        link = ctx.link
        if link.whole:
            (dx,) = again(lambda x: plane_statistics(x, _STATISTICS), [x], [dmean, dtop])
            return g + dx if dx is not None else g, None, None
        rest, _, peak = plane_rest(x, mean, {"mean": dmean, "max": dtop})
        if link.reaching is None:  # neither `_Scale` nor `_PlaceStatistics` ran in this backward pass, and g is 0
            return ctx.kernels.plane_combine(like(g, x), rest, rest, None, None, peak, where), None, None
        dx = ctx.kernels.place_combine(like(g, x), link.f, link.places(x), *link.reaching, rest, peak, where)
        link.m = link.reaching = None
        return dx, None, None


class _PlaceStatistics(Function):
    """x and f (N, C, 1, 1) -> mean and largest value of x * f over the channels, and x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, kernels: Any, link: _Link) -> Any:
        mean, top, where = kernels.place_statistics(x, small(f.flatten(1), x))
        ctx.save_for_backward(x, f, where)
        ctx.kernels, ctx.link = kernels, link
        places = len(x), 1, *x.shape[2:]
        return mean.reshape(places).to(x.dtype), top.reshape(places).to(x.dtype), x

    @staticmethod
    def backward(ctx: Any, dmean: Tensor, dtop: Tensor, g: Tensor) -> Any:
        x, f, where = ctx.saved_tensors
        link = ctx.link
        if link.whole:
            dx, df = again(lambda x, f: place_statistics(x * f.to(x.dtype)), [x, f], [dmean, dtop])
            return g + dx if dx is not None else g, df, None, None
        g, link.f = like(g, x), small(f.flatten(1), x)
        link.reaching = small(dmean.flatten(1), x) / x.shape[1], small(dtop.flatten(1), x), where
        df = ctx.kernels.place_plane_dot(g, x, link.places(x), *link.reaching) if ctx.needs_input_grad[1] else None
        return g, df[:, :, None, None].to(f.dtype) if df is not None else None, None, None


class _Scale(Function):
    """x, f (N, C, 1, 1) and m (N, 1, H, W) -> their product. The gradient of f comes by way of `_PlaceStatistics`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, m: Tensor, kernels: Any, link: _Link) -> Tensor:
        ctx.save_for_backward(x, f, m)
        ctx.kernels, ctx.link = kernels, link
        return kernels.place_scale(x, small(f.flatten(1), x), small(m.flatten(1), x))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, f, m = ctx.saved_tensors
        ctx.link.whole |= torch.is_grad_enabled()
        if ctx.link.whole:
            return *again(lambda x, f, m: x * f.to(x.dtype) * m.to(x.dtype), [x, f, m], [g]), None, None
        g, ctx.link.m = like(g, x), small(m.flatten(1), x)
        dm = (
            ctx.kernels.place_dot(g, x, small(f.flatten(1), x)).reshape(m.shape).to(m.dtype)
            if ctx.needs_input_grad[2]
            else None
        )
        return g, None, dm, None, None
