"""Gates of one factor a channel, from statistics of each channel's plane.

In units of one read or write of the features, gate and gradient take 7: forward, the statistics read x, the product
reads x and writes y; backward, the gradient of the factors reads g and x, that of x reads g and writes (and reads x, if
the variance is among the statistics). Written with torch's operations there are 13 to 17, since the gradient of x then
arrives in parts, one through the product and one through each statistic, which are added up in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from regard.attention.ops.autograd import again, laid_out, like, small
from regard.attention.ops.choice import kernels_for
from regard.attention.ops.kernels import sum_dtype

Statistic = Literal["mean", "max", "var"]


def plane_statistics(x: Tensor, statistics: Sequence[Statistic]) -> tuple[Tensor, ...]:
    """Statistics of the planes of `x` (N, C, H, W), (N, C) each, by their formulas.

    'mean'; 'max', whose gradient goes to the first place that has it; 'var', the variance with H W - 1 in the
    denominator (0 for planes of one place).
    """
    planes = x.flatten(2)  # (N, C, HW)
    divisor = planes.shape[2] - 1 if planes.shape[2] > 1 else 1
    of: dict[Statistic, Callable[[], Tensor]] = {
        "mean": lambda: planes.mean(2),
        "max": lambda: planes.max(2).values,
        "var": lambda: (planes - planes.mean(2, keepdim=True)).square().sum(2) / divisor,
    }
    return tuple(of[name]() for name in statistics)


def channel_gated(x: Tensor, statistics: Sequence[Statistic], factors: Callable[..., Tensor]) -> Tensor:
    """`x * factors(*plane_statistics(x, statistics))`, in the dtype of `x`.

    Args:
        x: (N, C, H, W).
        statistics: what `factors` is given, (N, C) each.
        factors: gives (N, C, 1, 1).
    """
    kernels = kernels_for(x, calls=2)
    if kernels is None:
        return x * factors(*plane_statistics(x, statistics)).to(x.dtype)
    link = Link()
    *found, carried = _PlaneStatistics.apply(laid_out(x), tuple(statistics), kernels, link)
    return Scale.apply(carried, factors(*found).expand(*x.shape[:2], 1, 1), kernels, link)


class Link:
    """What the two ends of a gated operation tell each other.

    The first function takes x and gives statistics, and x once more for the second, which multiplies it with the
    factors. In the backward pass the second hands back g as it is, not multiplied with the factors; the first has them
    from here, and computes the whole gradient of x in one pass. `whole` says that this is not done: once second
    derivatives are asked for, every gradient between the two is what it says it is, since others add to it.
    """

    factors: tuple[Tensor, ...] | None = None  # in a backward pass only, as the kernels take them
    whole: bool = False

    def taken(self, x: Tensor, *shapes: torch.Size) -> Any:
        """The factors that the second function left for the first in this backward pass, one or several.

        Ones of these shapes if it left none: there are no factors, or it did not run, and then g is 0.
        """
        factors, self.factors = self.factors, None
        factors = factors or tuple(torch.ones(shape, dtype=sum_dtype(x.dtype), device=x.device) for shape in shapes)
        return factors if len(factors) > 1 else factors[0]


class _PlaneStatistics(Function):
    """x -> its statistics, and x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, statistics: tuple[Statistic, ...], kernels: Any, link: Link) -> Any:
        mean, var, top, where = kernels.plane_statistics(x, "var" in statistics, "max" in statistics)
        ctx.save_for_backward(x, mean, where)
        ctx.statistics, ctx.kernels, ctx.link = statistics, kernels, link
        of = {"mean": mean, "var": var, "max": top}
        return *(of[name].to(x.dtype) for name in statistics), x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, mean, where = ctx.saved_tensors
        *of_statistics, g = gradients
        if ctx.link.whole:
            (dx,) = again(lambda x: plane_statistics(x, ctx.statistics), [x], of_statistics)
            return g + dx if dx is not None else g, None, None, None
        g = like(g, x)
        rest, slope, peak = plane_rest(x, mean, dict(zip(ctx.statistics, of_statistics, strict=True)))
        of_x = x if slope is not None else None
        factors = ctx.link.taken(x, x.shape[:2])
        return ctx.kernels.plane_combine(g, factors, rest, of_x, slope, peak, where), None, None, None


def plane_rest(
    x: Tensor, mean: Tensor, gradients: dict[Statistic, Tensor]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What the gradients of statistics add to that of x: at every place of a plane, times x, at its largest value."""
    places = x.shape[2] * x.shape[3]
    rest, slope, peak = torch.zeros_like(mean), None, None
    if "mean" in gradients:
        rest = small(gradients["mean"], x) / places
    if "var" in gradients:
        slope = small(gradients["var"], x) * (2 / max(places - 1, 1))
        rest = rest - slope * mean
    if "max" in gradients:
        peak = small(gradients["max"], x)
    return rest, slope, peak


class Scale(Function):
    """x and factors (N, C, 1, 1) -> their product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factors: Tensor, kernels: Any, link: Link) -> Tensor:
        ctx.save_for_backward(x, factors)
        ctx.kernels, ctx.link = kernels, link
        return kernels.plane_scale(x, small(factors.flatten(1), x))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, factors = ctx.saved_tensors
        ctx.link.whole |= torch.is_grad_enabled()
        if ctx.link.whole:
            return *again(lambda x, f: x * f.to(x.dtype), [x, factors], [g]), None, None
        ctx.link.factors = (small(factors.flatten(1), x),)
        g = like(g, x)
        dots = ctx.kernels.plane_dot(g, x)[:, :, None, None].to(factors.dtype) if ctx.needs_input_grad[1] else None
        return g, dots, None, None
