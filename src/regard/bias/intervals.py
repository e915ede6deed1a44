"""Intervals for proportions, and for the difference of two on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from torch import Tensor

from regard.errors import InputError


def wilson(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion.

    Source: Wilson 1927; without continuity correction.

    Args:
        successes: 0 to `total`.
        total: 0 or more; of nothing nothing is known: (0, 1).
        confidence: above 0, below 1.

    Returns:
        (low, high), 0 <= low <= successes / total <= high <= 1.

    Raises:
        InputError: numbers out of range.
    """
    if not 0 <= successes <= total:
        raise InputError(f"{successes} successes of {total}; expected 0 to {total}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence}; expected above 0 and below 1, such as 0.95")
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two proportions counted on the same images.

    Attributes:
        difference: first minus second, -1 to 1.
        low: lower end of its interval.
        high: upper end.
        p: of McNemar's exact test, two-sided: how likely so unequal a split of the images on which the two differ would
            be by chance alone; 1 if there are none.
        images: how many.
        first_only: images that count in the first only.
        second_only: in the second only.
    """

    difference: float
    low: float
    high: float
    p: float
    images: int
    first_only: int
    second_only: int

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def paired_difference(
    first: Sequence[bool] | np.ndarray | Tensor,
    second: Sequence[bool] | np.ndarray | Tensor,
    confidence: float = 0.95,
) -> PairedDifference:
    """How the share of true values differs between two boolean vectors on the same images.

    Source of the interval: Newcombe 1998, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", method 10: Wilson's intervals of the two, joined with regard to their
    correlation. Of the test: McNemar 1947, exact binomial form.

    Args:
        first: (N,), bool.
        second: (N,), bool; entry i belongs to the same image as entry i of the first.
        confidence: of the interval.

    Raises:
        InputError: vectors that are not boolean, of different lengths, or empty.
    """
    a, b = _booleans(first), _booleans(second)
    if len(a) != len(b) or not len(a):
        raise InputError(f"vectors of {len(a)} and {len(b)} entries; expected the same number, at least 1")
    n = len(a)
    both, first_only, second_only = int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum())
    neither = n - both - first_only - second_only
    p1, p2 = (both + first_only) / n, (both + second_only) / n
    low1, high1 = wilson(both + first_only, n, confidence)
    low2, high2 = wilson(both + second_only, n, confidence)

    product: float = both * neither - first_only * second_only
    if product > 0:
        product = max(product - n / 2, 0)
    margins = (both + first_only) * (second_only + neither) * (both + second_only) * (first_only + neither)
    phi = product / math.sqrt(margins) if margins else 0.0

    def distance(up: float, down: float) -> float:
        return math.sqrt(max(0.0, up * up - 2 * phi * up * down + down * down))

    difference = (first_only - second_only) / n
    return PairedDifference(
        difference=difference,
        low=max(-1.0, difference - distance(p1 - low1, high2 - p2)),
        high=min(1.0, difference + distance(high1 - p1, p2 - low2)),
        p=_mcnemar(first_only, second_only),
        images=n,
        first_only=first_only,
        second_only=second_only,
    )


def _mcnemar(first_only: int, second_only: int) -> float:
    from scipy.stats import binomtest  # here: it takes long to import

    differing = first_only + second_only
    return float(binomtest(first_only, differing, 0.5).pvalue) if differing else 1.0


def _booleans(values: Any) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1 or array.dtype != np.bool_:
        raise InputError(f"a vector is {array.dtype} of shape {array.shape}; expected booleans of shape (N,)")
    return array
