"""What the differentiable operations share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from regard.attention.ops.kernels import sum_dtype
from regard.errors import InputError


def laid_out(x: Tensor) -> Tensor:
    """`x` contiguous or channels last: as it is if it is either, else contiguous. A view negated lazily is computed."""
    x = x.resolve_neg()
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def like(g: Tensor, x: Tensor) -> Tensor:
    """`g` in the dtype and memory format of `x`, which is laid out."""
    g = g.to(x.dtype).resolve_neg()
    return g.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last)


def small(value: Tensor, x: Tensor, *shape: int) -> Tensor:
    """`value` as kernels take it beside features `x`: expanded to `shape`, contiguous, in the dtype of their sums.

    Raises:
        InputError: `value` is on another device than `x`.
    """
    if value.device != x.device:
        raise InputError(f"the features are on {x.device}, and what they are gated with is on {value.device}")
    value = value.detach().to(sum_dtype(x.dtype)).resolve_neg()
    return (value.expand(shape) if shape else value).contiguous()


def again(
    formula: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradients of `formula(*inputs)`, themselves differentiable: for the second derivative, which kernels lack."""
    with torch.enable_grad():
        # Views, so that an input which another was computed from gets no gradient by way of that.
        inputs = [i.view_as(i) if i.requires_grad else i for i in inputs]
        wanted = [i for i in inputs if i.requires_grad]
        outputs = formula(*inputs)
        found = torch.autograd.grad(outputs, wanted, gradients, create_graph=True, allow_unused=True) if wanted else ()
    each = iter(found)
    return [next(each) if i.requires_grad else None for i in inputs]
