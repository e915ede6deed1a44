"""Features times factors, plus terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from regard.attention import functional
from regard.attention.kernels.operation import Operation, by_formula, memory_format


def _broadcast(x: Tensor, *small: Tensor | None) -> bool:
    """Whether small tensors have a value for every image, and all or one along each other axis."""
    return x.dim() == 4 and all(
        value is None
        or (
            value.dim() == 4
            and value.shape[0] == x.shape[0]
            and all(size in (1, whole) for size, whole in zip(value.shape[1:], x.shape[1:], strict=True))
        )
        for value in small
    )


_combine = Operation(
    functional.combine,
    lambda x, a, b, c, d, g, *_: _broadcast(x, a, b, c, d) and (g is None or g.shape == x.shape),
)
_combine_backward = Operation(
    functional.combine_backward, lambda g, x, a, b: g.shape == x.shape and _broadcast(x, a, b) and a.shape != x.shape
)


def _gradient(inputs: Sequence[Any], _: Any, dy: Tensor) -> Any:
    x, a, b, c, *others, read = inputs
    if read and all(other is None for other in others):
        none = (None,) * len(others)
        if a is not None and c is None:
            dx, da, db = _combine_backward(dy, x, a, b)
            return dx, da.to(a.dtype), None if b is None else db.to(b.dtype), None, *none, None
        if a is None and b is None:
            dx = dy.contiguous(memory_format=memory_format(x))
            return dx, None, None, dy.sum_to_size(c.shape).to(c.dtype), *none, None
    return by_formula(functional.combine, inputs, [dy])


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
