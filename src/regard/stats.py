"""Every interval and test of regard. Intervals are 95% intervals; tests are two-sided.

All comparisons shown together are corrected together (`holm`). Significant means `p_adjusted < 0.05`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from regard.errors import InputError

LEVEL = 0.05
"""A difference is significant if its adjusted p value is below this."""

SEEDS = 3
"""A difference over seeds needs at least this many pairs of seeds for an interval and a p value."""

Key = TypeVar("Key")
Vector = Sequence[float] | np.ndarray | Any  # anything that np.asarray accepts, such as a CPU tensor


@dataclass(frozen=True)
class Estimate:
    """A rate or a mean.

    Attributes:
        value: the rate or mean; NaN if n is 0.
        low, high: the ends of its 95% interval; NaN if it has none.
        n: number of images or seeds.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A difference, first minus second.

    Attributes:
        value: the difference; NaN if n is 0.
        low, high: the ends of its 95% interval; NaN if it has none.
        p: two-sided p value; None if there is no test.
        p_adjusted: p, corrected for all comparisons shown together; None until `holm`.
        n: number of images or seeds that both sides have; for two groups of images, the number in both together.
    """

    value: float
    low: float
    high: float
    p: float | None
    p_adjusted: float | None
    n: int

    @property
    def significant(self) -> bool:
        """Whether `p_adjusted` is below 0.05."""
        return self.p_adjusted is not None and self.p_adjusted < LEVEL

    def to_record(self) -> dict[str, Any]:
        """The fields and `significant` (None without a test), JSON-ready: NaN becomes None."""
        return without_nan({**asdict(self), "significant": None if self.p is None else self.significant})


def proportion(successes: int, n: int) -> Estimate:
    """A rate with Wilson's score interval.

    Source: Wilson 1927, without continuity correction; `scipy.stats.binomtest`.

    Args:
        successes: 0 to `n`.
        n: number of images; 0 gives NaN.

    Raises:
        InputError: numbers out of range.
    """
    successes, n = int(successes), int(n)
    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes of {n}; expected 0 to {n}")
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    low, high = _wilson(successes, n)
    return Estimate(successes / n, low, high, n)


def mean(values: Vector, low: float = -math.inf, high: float = math.inf) -> Estimate:
    """A mean, over images or over seeds, with the interval of Student's t, which needs two values that differ.

    Args:
        values: (N,); NaN values are left out.
        low, high: the range of possible values, to which the interval is clipped.

    Raises:
        InputError: values that are not numbers of shape (N,), or infinite.
    """
    numbers = _drop_nan(values)
    value, half, _ = _student(numbers)
    ends = np.clip([value - half, value + half], low, high)
    return Estimate(value, float(ends[0]), float(ends[1]), len(numbers))


def paired_proportions(a: Vector, b: Vector) -> Difference:
    """The difference between two rates on the same images, with McNemar's exact test and Newcombe's interval.

    Source: McNemar 1947, exact binomial form; Newcombe 1998, "Improved confidence intervals for the difference between
    binomial proportions based on paired data", method 10.

    Args:
        a: (N,), bool.
        b: (N,), bool; entry i belongs to the same image as entry i of `a`.

    Raises:
        InputError: vectors that are not boolean, or of different lengths.
    """
    first, second = _booleans(a), _booleans(b)
    n = _common_length(first, second)
    if n == 0:
        return Difference(math.nan, math.nan, math.nan, None, None, 0)
    # n10 counts the images that are true in the first vector and false in the second, and so on.
    n11, n10, n01 = (int(x.sum()) for x in (first & second, first & ~second, ~first & second))
    n00 = n - n11 - n10 - n01
    p1, p2 = (n11 + n10) / n, (n11 + n01) / n
    low1, high1 = _wilson(n11 + n10, n)
    low2, high2 = _wilson(n11 + n01, n)

    product: float = n11 * n00 - n10 * n01
    if product > 0:
        product = max(product - n / 2, 0)
    margins = (n11 + n10) * (n01 + n00) * (n11 + n01) * (n10 + n00)
    phi = product / math.sqrt(margins) if margins else 0.0

    def distance(up: float, down: float) -> float:
        return math.sqrt(max(0.0, up * up - 2 * phi * up * down + down * down))

    value = (n10 - n01) / n
    low = max(-1.0, value - distance(p1 - low1, high2 - p2))
    high = min(1.0, value + distance(high1 - p1, p2 - low2))
    return Difference(value, low, high, _mcnemar(n10, n01), None, n)


def independent_proportions(successes: int, n: int, others: int, m: int) -> Difference:
    """The difference between the rates of two groups of images, with Fisher's exact test and Newcombe's interval.

    Source: Fisher 1935; Newcombe 1998, "Interval estimation for the difference between independent proportions:
    comparison of eleven methods", method 10.

    Args:
        successes: successes in the first group, 0 to `n`.
        n: number of images in the first group.
        others: successes in the second group, 0 to `m`.
        m: number of images in the second group.

    Raises:
        InputError: numbers out of range.
    """
    first, second = proportion(successes, n), proportion(others, m)
    if not n or not m:
        return Difference(math.nan, math.nan, math.nan, None, None, n + m)
    from scipy.stats import fisher_exact  # here, because it is slow to import

    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    p = float(fisher_exact([[successes, n - successes], [others, m - others]]).pvalue)
    return Difference(value, max(-1.0, low), min(1.0, high), p, None, n + m)


def paired_means(a: Vector, b: Vector) -> Difference:
    """The difference between the means of a measure on the same images, with the paired t test and its interval.

    Args:
        a: (N,), numbers; images with NaN in either vector are left out.
        b: (N,); entry i belongs to the same image as entry i of `a`.

    Raises:
        InputError: vectors that are not numbers, infinite or of different lengths.
    """
    return _paired_t(a, b, min_pairs=2)


def over_seeds(a: Vector, b: Vector) -> Difference:
    """The mean difference between two columns of runs, seed by seed, with the paired t test and its interval.

    Below 3 seeds there is neither interval nor p.

    Args:
        a: (N,), one value per seed; seeds with NaN in either vector are left out.
        b: (N,); entry i belongs to the same seed as entry i of `a`.

    Raises:
        InputError: vectors that are not numbers, infinite or of different lengths.
    """
    return _paired_t(a, b, min_pairs=SEEDS)


def bootstrap(value: float, drawn: Vector, n: int) -> Difference:
    """A difference with its bootstrap percentile interval and two-sided p value.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", sections 13.3 and 15.4; p is twice the share
    of the samples on the other side of 0, with the original sample counted once more (Davison and Hinkley 1997, 4.2).

    Args:
        value: the difference on the original sample.
        drawn: (B,), the difference in each bootstrap sample; NaN values are left out.
        n: number of images in the original sample; below 2 there is neither interval nor p.

    Raises:
        InputError: samples that are not numbers of shape (B,), or infinite.
    """
    numbers = _drop_nan(drawn)
    if n < 2 or not len(numbers) or math.isnan(value):
        return Difference(value, math.nan, math.nan, None, None, n)
    low, high = np.quantile(numbers, [LEVEL / 2, 1 - LEVEL / 2]).tolist()
    opposite = min(int((numbers <= 0).sum()), int((numbers >= 0).sum()))
    return Difference(value, low, high, min(1.0, 2 * (1 + opposite) / (1 + len(numbers))), None, n)


def holm(differences: Mapping[Key, Difference]) -> dict[Key, Difference]:
    """The differences with `p_adjusted` set; differences without p are unchanged.

    If no difference is real, the chance that any of them is called significant is at most 5%.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    tested = sorted((d.p, i) for i, d in enumerate(differences.values()) if d.p is not None)
    adjusted: dict[int, float] = {}
    highest = 0.0
    for rank, (p, i) in enumerate(tested):
        adjusted[i] = highest = max(highest, min(1.0, (len(tested) - rank) * p))
    return {key: replace(d, p_adjusted=adjusted.get(i)) for i, (key, d) in enumerate(differences.items())}


def compatible(differences: Vector, published: float, runs: int | None = None, median: bool = False) -> bool:
    """Whether a published difference lies in the 95% prediction interval of our differences.

    The interval is `d ± t(n - 1) s sqrt(1/n + 1/m)`, with the mean `d` and the standard deviation `s` of our n per-seed
    differences and the number m of published runs. It takes both errors into account, ours and that of the published
    difference, which is assumed to spread as ours does. The two published columns are rarely paired by seed, so the
    interval treats the runs of one seed in our two columns as uncorrelated; two different networks that share a seed
    nearly are.

    Args:
        differences: (N,), one per seed.
        published: in the same unit.
        runs: number of runs behind each published value; None, if the source does not say, counts as 1, for which the
            interval is widest.
        median: whether the published values are medians, which spread more than means: m runs count as
            1 + 2 (m - 1) / pi, by the asymptotic efficiency of the median of normal values.

    Raises:
        InputError: fewer than 3 seeds.
    """
    numbers = _numbers(differences)
    if len(numbers) < SEEDS:
        raise InputError(f"{len(numbers)} seeds; expected at least {SEEDS}")
    value, half, _ = _student(numbers)
    m: float = max(1, runs or 1)
    if median:
        m = 1 + 2 * (m - 1) / math.pi
    return bool(abs(published - value) <= half * math.sqrt(1 + len(numbers) / m))


def without_nan(record: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a record with None for NaN and infinities, which JSON lacks."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }


def interval_record(key: str, estimate: Estimate | Difference) -> dict[str, Any]:
    """The value as `key`, and the ends of its interval as `key_low` and `key_high`; None for NaN."""
    return without_nan({key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high})


@lru_cache(4096)
def _wilson(successes: int, n: int) -> tuple[float, float]:
    from scipy.stats import binomtest  # here, because it is slow to import

    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


@lru_cache(4096)
def _mcnemar(n10: int, n01: int) -> float:
    from scipy.stats import binomtest  # here, because it is slow to import

    return float(binomtest(n10, n10 + n01).pvalue) if n10 + n01 else 1.0


def _student(values: np.ndarray) -> tuple[float, float, float | None]:
    """The mean, half the width of its interval (or NaN), and the p value of the t test against 0 (or None)."""
    from scipy.special import stdtr, stdtrit  # here, because it is slow to import

    n = len(values)
    if n == 0:
        return math.nan, math.nan, None
    value = float(values.mean())
    if np.ptp(values) <= 1e-12 * np.abs(values).max():  # all equal up to rounding
        return value, math.nan, None
    error = float(values.std(ddof=1)) / math.sqrt(n)
    return value, float(stdtrit(n - 1, 1 - LEVEL / 2)) * error, float(2 * stdtr(n - 1, -abs(value) / error))


def _paired_t(a: Vector, b: Vector, min_pairs: int) -> Difference:
    first, second = _numbers(a), _numbers(b)
    _common_length(first, second)
    differences = _drop_nan(first - second)
    n = len(differences)
    value, half, p = _student(differences)
    if n < min_pairs:
        half, p = math.nan, None
    elif not differences.any():
        p = 1.0
    return Difference(value, value - half, value + half, p, None, n)


def _booleans(values: Vector) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype != np.bool_:
        raise InputError(f"a vector is {array.dtype} of shape {array.shape}; expected booleans of shape (N,)")
    return array


def _numbers(values: Vector) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "fiub":
        raise InputError(f"a vector is {array.dtype} of shape {array.shape}; expected numbers of shape (N,)")
    array = array.astype(np.float64)
    if np.isinf(array).any():
        raise InputError(f"a vector has {int(np.isinf(array).sum())} infinite entries; expected finite numbers or NaN")
    return array


def _drop_nan(values: Vector) -> np.ndarray:
    numbers = _numbers(values)
    return numbers[~np.isnan(numbers)]


def _common_length(a: np.ndarray, b: np.ndarray) -> int:
    if len(a) != len(b):
        raise InputError(f"vectors of {len(a)} and {len(b)} entries; expected the same number")
    return len(a)
