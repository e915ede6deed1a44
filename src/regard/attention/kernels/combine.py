"""Features times factors, plus terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from regard.attention import functional
from regard.attention.kernels.operation import Operation, formula_gradients, memory_format

_combine = Operation(functional.combine, "x nchw, a nCHW, b nCHW, c nCHW, d nCHW, g nchw")
_combine_backward = Operation(functional.combine_backward, "x nchw, g nchw, a nCHW, b nCHW")


def _gradient(inputs: Sequence[Any], _: Any, dy: Tensor) -> Any:
    x, a, b, c, *others, read = inputs
    if read and all(other is None for other in others):
        none = (None,) * len(others)
        if a is not None and c is None:
            dx, da, db = _combine_backward(dy, x, a, b)
            return dx, da, None if b is None else db, None, *none, None
        if a is None and b is None:
            dx = dy.contiguous(memory_format=memory_format(x))
            return dx, None, None, dy.sum_to_size(c.shape), *none, None
    return formula_gradients(functional.combine, inputs, [dy])


_combine.differentiate(_gradient)
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
    """`x * a * b + c * d + g`, and `peak` at positions; without x if not `read`: see `functional.combine`."""
    return _combine(x, a, b, c, d, g, where, peak, read)


def scale(x: Tensor, a: Tensor, b: Tensor | None = None) -> Tensor:
    """`x * a * b`, in the dtype of x.

    Args:
        x: (N, C, H, W).
        a, b: factors that broadcast to x; the gradient of x and those of both are computed in one pass.
    """
    return combine(x, a, b, read=True)


def add(x: Tensor, term: Tensor) -> Tensor:
    """`x + term`, in the dtype of x; the term broadcasts to x."""
    return combine(x, c=term, read=True)
