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


combine = Operation(functional.combine, lambda x, a, b, c, d, read: _broadcast(x, a, b, c, d))
combine_backward = Operation(
    functional.combine_backward, lambda g, x, a, b: g.shape == x.shape and _broadcast(x, a, b) and a.shape != x.shape
)

with_peaks = Operation(functional.with_peaks, lambda x, a, b, where, peak, pixels: _broadcast(x, a, b))


def _gradient(inputs: Sequence[Any], _: Any, g: Tensor) -> Any:
    x, a, b, c, d, read = inputs
    if read and a is not None and c is None and d is None:
        dx, da, db = combine_backward(g, x, a, b)
        return dx, da.to(a.dtype), None if b is None else db.to(b.dtype), None, None, None
    if read and a is None and b is None and d is None:
        return g.contiguous(memory_format=memory_format(x)), None, None, g.sum_to_size(c.shape).to(c.dtype), None, None
    return by_formula(functional.combine, inputs, [g])


combine.differentiate(_gradient)
combine_backward.differentiate(outputs=3)
with_peaks.differentiate()


def scale(x: Tensor, a: Tensor, b: Tensor | None = None) -> Tensor:
    """`x * a * b`, in the dtype of x.

    Args:
        x: (N, C, H, W).
        a, b: factors that broadcast to x; the gradient of x and those of both are computed in one pass.
    """
    return combine(x, a, b, None, None, True)


def add(x: Tensor, term: Tensor) -> Tensor:
    """`x + term`, in the dtype of x; the term broadcasts to x."""
    return combine(x, None, None, term, None, True)
