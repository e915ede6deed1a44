"""Features times factors, plus terms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from regard.attention import functional
from regard.attention.kernels.operation import (
    BACKENDS,
    LIBRARY,
    Operation,
    formula_gradients,
    is_passed_through,
    memory_format,
)

_combine = Operation(functional.combine, "x nchw, a nCHW, b nCHW, c nCHW, d nCHW, g nchw")
_combine_backward = Operation(functional.combine_backward, "x nchw, g nchw, a nCHW, b nCHW")
# The same operation, which writes its result to g.
LIBRARY.define(
    "combine_(Tensor x, Tensor? a, Tensor? b, Tensor? c, Tensor? d, Tensor(g!) g, Tensor? where, Tensor? peak, "
    "bool read) -> ()"
)


def _combine_in_place(backend: str | None, x: Tensor, *args: Any) -> None:
    g = args[4]
    if backend is None or g.dtype != x.dtype or not g.is_contiguous(memory_format=memory_format(x)):
        result = _combine.run_formula(x, *args)
    else:
        result = _combine.run_kernel(backend, x, *args, y=g)
    if result is not g:
        g.copy_(result)


LIBRARY.impl("combine_", partial(_combine_in_place, None), "CompositeExplicitAutograd")
for _device, _backend in BACKENDS.items():
    LIBRARY.impl("combine_", partial(_combine_in_place, _backend), _device.upper())


def _combine_gradient(inputs: Sequence[Any], _: Any, dy: Tensor) -> Any:
    x, a, b, c, *rest, read = inputs
    if read and all(value is None for value in rest):
        none = (None,) * len(rest)
        if a is not None and c is None:
            dx, da, db = _combine_backward(dy, x, a, b)
            dx.may_be_overwritten = is_passed_through(x)
            return dx, da, None if b is None else db, None, *none, None
        if a is None and b is None:
            dx = dy.contiguous(memory_format=memory_format(x))
            return dx, None, None, dy.sum_to_size(c.shape), *none, None
    return formula_gradients(functional.combine, inputs, [dy])


_combine.differentiate(_combine_gradient)
_combine_backward.differentiate(outputs=3)


def combine(
    x: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    c: Tensor | None = None,
    d: Tensor | None = None,
    *,
    g: Tensor | None = None,
    where: Tensor | None = None,
    peak: Tensor | None = None,
    read: bool,
) -> Tensor:
    """`x * a * b + c * d + g`, without x if not `read`, and `peak` at positions: see `functional.combine`.

    The result overwrites a gradient `g` that is used only here, which saves its memory.
    """
    if g is not None and torch.compiler.is_compiling():
        y = g.clone()  # which the compiler leaves out if g is not used again
        torch.ops.regard.combine_(x, a, b, c, d, y, where, peak, read)
        return y
    if g is not None and getattr(g, "may_be_overwritten", False) and not torch.is_grad_enabled():
        torch.ops.regard.combine_(x, a, b, c, d, g, where, peak, read)
        g.may_be_overwritten = is_passed_through(x)  # type: ignore[attr-defined]  # a mark on the tensor
        return g
    return _combine(x, a, b, c, d, g, where, peak, read)


def scale(x: Tensor, a: Tensor, b: Tensor | None = None) -> Tensor:
    """`x * a * b`, in the dtype of x; the factors broadcast to x. One pass computes the gradients of x, a and b."""
    return combine(x, a, b, read=True)


def add(x: Tensor, term: Tensor) -> Tensor:
    """`x + term`, in the dtype of x; the term broadcasts to x."""
    return combine(x, c=term, read=True)
