"""Every interval and test of regard. Intervals are at 95%, tests two-sided.

Comparisons that are shown together are corrected together, by `holm`. Significant means `p_adjusted < 0.05`.
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
"""The least number of pairs of seeds that a difference over seeds needs for an interval and a p value."""

Key = TypeVar("Key")
Vector = Sequence[float] | np.ndarray | Any  # anything NumPy takes, such as a tensor of the CPU


@dataclass(frozen=True)
class Estimate:
    """A rate or a mean.

    Attributes:
        value: NaN without values.
        low: lower end of its 95% interval; NaN where there is none.
        high: upper end.
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
        value: NaN without values.
        low: lower end of its 95% interval; NaN where there is none.
        high: upper end.
        p: two-sided; None if there is no test.
        p_adjusted: p with regard to all comparisons made together; None until `holm`.
        n: number of images or seeds that both have.
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
        """Its fields and `significant` (None without a test), JSON-ready: NaN is None."""
        return without_nan({**asdict(self), "significant": None if self.p is None else self.significant})


def proportion(successes: int, n: int) -> Estimate:
    """A rate with Wilson's score interval.

    Source: Wilson 1927, without continuity correction; `scipy.stats.binomtest`.

    Args:
        successes: 0 to `n`.
        n: number of images; of 0 nothing is known.

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
    """A mean, over images or over seeds, with the interval of Student's t.

    The interval needs two values that differ.

    Args:
        values: (N,); NaN values are left out.
        low: least possible value, at which the interval ends.
        high: greatest possible value.

    Raises:
        InputError: values that are not numbers of shape (N,), or infinite.
    """
    numbers = _known(values)
    value, half, _ = _student(numbers)
    ends = np.clip([value - half, value + half], low, high)
    return Estimate(value, float(ends[0]), float(ends[1]), len(numbers))


def paired_proportions(a: Vector, b: Vector) -> Difference:
    """How two rates on the same images differ: McNemar's exact test, and Newcombe's interval.

    Source: McNemar 1947, exact binomial form; Newcombe 1998, "Improved confidence intervals for the difference between
    binomial proportions based on paired data", method 10.

    Args:
        a: (N,), bool.
        b: (N,), bool; entry i belongs to the same image as entry i of `a`.

    Raises:
        InputError: vectors that are not boolean or of different lengths.
    """
    first, second = _booleans(a), _booleans(b)
    n = _common_length(first, second)
    if n == 0:
        return Difference(math.nan, math.nan, math.nan, None, None, 0)
    both, first_only, second_only = (int(x.sum()) for x in (first & second, first & ~second, ~first & second))
    neither = n - both - first_only - second_only
    p1, p2 = (both + first_only) / n, (both + second_only) / n
    low1, high1 = _wilson(both + first_only, n)
    low2, high2 = _wilson(both + second_only, n)

    product: float = both * neither - first_only * second_only
    if product > 0:
        product = max(product - n / 2, 0)
    margins = (both + first_only) * (second_only + neither) * (both + second_only) * (first_only + neither)
    phi = product / math.sqrt(margins) if margins else 0.0

    def distance(up: float, down: float) -> float:
        return math.sqrt(max(0.0, up * up - 2 * phi * up * down + down * down))

    value = (first_only - second_only) / n
    low = max(-1.0, value - distance(p1 - low1, high2 - p2))
    high = min(1.0, value + distance(high1 - p1, p2 - low2))
    return Difference(value, low, high, _mcnemar(first_only, second_only), None, n)


def independent_proportions(successes: int, n: int, others: int, m: int) -> Difference:
    """How the rates of two groups of images differ: Fisher's exact test, and Newcombe's interval.

    Source: Fisher 1935; Newcombe 1998, "Interval estimation for the difference between independent proportions:
    comparison of eleven methods", method 10.

    Args:
        successes: of the first group, 0 to `n`.
        n: number of images of the first group.
        others: successes of the second group, 0 to `m`.
        m: number of images of the second group.

    Raises:
        InputError: numbers out of range.
    """
    first, second = proportion(successes, n), proportion(others, m)
    if not n or not m:
        return Difference(math.nan, math.nan, math.nan, None, None, n + m)
    from scipy.stats import fisher_exact  # here: it takes long to import

    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    p = float(fisher_exact([[successes, n - successes], [others, m - others]]).pvalue)
    return Difference(value, max(-1.0, low), min(1.0, high), p, None, n + m)


def paired_means(a: Vector, b: Vector) -> Difference:
    """How the mean of a measure differs between two vectors on the same images: the paired t test and its interval.

    Args:
        a: (N,), numbers; images with NaN in either vector are left out.
        b: (N,); entry i belongs to the same image as entry i of `a`.

    Raises:
        InputError: vectors that are not numbers, infinite or of different lengths.
    """
    return _paired_t(a, b, least=2)


def over_seeds(a: Vector, b: Vector) -> Difference:
    """How two columns of runs differ, seed by seed: the paired t test and its interval, from 3 seeds on.

    Args:
        a: (N,), one value per seed; seeds with NaN in either vector are left out.
        b: (N,); entry i belongs to the same seed as entry i of `a`.

    Raises:
        InputError: vectors that are not numbers, infinite or of different lengths.
    """
    return _paired_t(a, b, least=SEEDS)


def bootstrap(value: float, drawn: Vector, n: int) -> Difference:
    """A difference of which samples were drawn with replacement: the percentile interval and a two-sided p value.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", sections 13.3 and 15.4; p is twice the share
    of the samples on the other side of 0, where the sample itself counts as one more (Davison and Hinkley 1997, 4.2).

    Args:
        value: the difference itself.
        drawn: (B,), the difference in each sample; NaN values are left out.
        n: number of images that were drawn from; below 2 there is neither interval nor p.

    Raises:
        InputError: samples that are not numbers of shape (B,), or infinite.
    """
    numbers = _known(drawn)
    if n < 2 or not len(numbers) or math.isnan(value):
        return Difference(value, math.nan, math.nan, None, None, n)
    low, high = np.quantile(numbers, [LEVEL / 2, 1 - LEVEL / 2]).tolist()
    beyond = min(int((numbers <= 0).sum()), int((numbers >= 0).sum()))
    return Difference(value, low, high, min(1.0, 2 * (1 + beyond) / (1 + len(numbers))), None, n)


def holm(differences: Mapping[Key, Difference]) -> dict[Key, Difference]:
    """The differences with `p_adjusted`; those without p stay as they are.

    Where no difference is real, the chance that any is called significant is at most 5%.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    tested = sorted((d.p, i) for i, d in enumerate(differences.values()) if d.p is not None)
    adjusted: dict[int, float] = {}
    highest = 0.0
    for rank, (p, i) in enumerate(tested):
        adjusted[i] = highest = max(highest, min(1.0, (len(tested) - rank) * p))
    return {key: replace(d, p_adjusted=adjusted.get(i)) for i, (key, d) in enumerate(differences.items())}


def compatible(differences: Vector, published: float, runs: int | None = None, median: bool = False) -> bool:
    """Whether a published difference is one that a perfect replication would have given.

    It is if it lies in the 95% prediction interval `d ± t(n - 1) s sqrt(1/n + 1/m)` around the mean `d` of our per-seed
    differences, where `s` is their standard deviation, and m the number of published runs: so both errors count, ours
    and that of the published difference, which is taken to spread as ours does. As the two published columns are
    rarely paired by seed, this takes the runs of a seed in our two columns for uncorrelated, which the shared seed of
    two different networks hardly changes.

    Args:
        differences: (N,), per seed.
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
    """The same, with None for every NaN: JSON has none."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in record.items()}


def interval_record(key: str, one: Estimate | Difference) -> dict[str, Any]:
    """The value as `key`, and the ends of its interval as `key_low` and `key_high`; None for NaN."""
    return without_nan({key: one.value, f"{key}_low": one.low, f"{key}_high": one.high})


@lru_cache(4096)
def _wilson(successes: int, n: int) -> tuple[float, float]:
    from scipy.stats import binomtest  # here: it takes long to import

    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


@lru_cache(4096)
def _mcnemar(first_only: int, second_only: int) -> float:
    from scipy.stats import binomtest  # here: it takes long to import

    differing = first_only + second_only
    return float(binomtest(first_only, differing).pvalue) if differing else 1.0


def _student(values: np.ndarray) -> tuple[float, float, float | None]:
    """The mean, half the length of its interval (NaN), and the p value of 0 (None)."""
    from scipy.special import stdtr, stdtrit  # here: it takes long to import

    n = len(values)
    if n == 0:
        return math.nan, math.nan, None
    value = float(values.mean())
    if np.ptp(values) <= 1e-12 * np.abs(values).max():  # no spread, but for rounding
        return value, math.nan, None
    error = float(values.std(ddof=1)) / math.sqrt(n)
    return value, float(stdtrit(n - 1, 1 - LEVEL / 2)) * error, float(2 * stdtr(n - 1, -abs(value) / error))


def _paired_t(a: Vector, b: Vector, least: int) -> Difference:
    first, second = _numbers(a), _numbers(b)
    _common_length(first, second)
    differences = _known(first - second)
    n = len(differences)
    value, half, p = _student(differences)
    if n < least:
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


def _known(values: Vector) -> np.ndarray:
    """Those that are not NaN."""
    numbers = _numbers(values)
    return numbers[~np.isnan(numbers)]


def _common_length(a: np.ndarray, b: np.ndarray) -> int:
    if len(a) != len(b):
        raise InputError(f"vectors of {len(a)} and {len(b)} entries; expected the same number")
    return len(a)
