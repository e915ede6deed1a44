"""What several seeds say: their spread, and the difference of two columns seed by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from regard.errors import InputError

LEVEL = 0.05
"""p values below it count."""

_RESAMPLES = 9_999  # of pairs, so that up to 13 of them have all their changes of sign taken
_DECIMALS = 9  # of a point, to which sums are compared: far below what a value can differ by, far above rounding


@dataclass(frozen=True)
class Statistics:
    """Values of several seeds.

    Attributes:
        count: how many.
        median: of them.
        mean: of them.
        deviation: their sample standard deviation (with N - 1); None of one value.
        low: lower end of the 95% confidence interval of the mean, by Student's t; None of one value.
        high: upper end.
    """

    count: int
    median: float
    mean: float
    deviation: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairedDifference:
    """One list of values against another, pair by pair.

    Attributes:
        count: of pairs.
        difference: mean of one minus the other.
        low: lower end of its 95% interval, by the paired t; None of one pair.
        high: upper end.
        p_two_sided: how likely a mean difference at least as far from 0 is if each pair's sign were a coin's.
        p_greater: likewise, at least as high.
        p_less: likewise, at least as low.
    """

    count: int
    difference: float
    low: float | None
    high: float | None
    p_two_sided: float
    p_greater: float
    p_less: float

    def p_toward(self, direction: float) -> float:
        """One-sided: up if `direction` is above 0, else down.

        For a direction that was announced before the values were seen: taken in the one that the difference turned out
        to have, it falls below 0.05 twice as often as it should.
        """
        return self.p_greater if direction > 0 else self.p_less

    def resolved(self, p: float) -> bool:
        """Whether there is a difference, by one of its p values; see `resolves`."""
        return self.low is not None and self.high is not None and resolves(p, self.low, self.high)


def describe(values: Sequence[float]) -> Statistics:
    """Median, mean, standard deviation and confidence interval of one value per seed.

    Source of the interval: Student 1908, with N - 1 degrees of freedom; exact for normally distributed values, however
    few.

    Args:
        values: one a seed, in any order.

    Raises:
        InputError: no values, or some that are not finite.
    """
    ordered = sorted(_finite(values))
    mean = min(max(statistics.fmean(ordered), ordered[0]), ordered[-1])  # rounding can put it off equal values
    deviation = low = high = None
    if len(ordered) > 1:
        deviation = statistics.stdev(ordered)
        low, high = _student(mean, deviation / math.sqrt(len(ordered)), len(ordered))
    return Statistics(len(ordered), statistics.median(ordered), mean, deviation, low, high)


def paired_difference(one: Sequence[float], other: Sequence[float]) -> PairedDifference:
    """How far one list of values lies above another, pair by pair.

    The interval is Student's of the pairs' differences. The p values are those of the permutation test that changes the
    signs of these: in all ways for up to 13 pairs, in 9,999 drawn ones (always the same) for more. It assumes nothing
    of how values are spread, but needs pairs enough: see `least_p`.

    Source: `scipy.stats.permutation_test`; Fisher 1935, section 21.

    Args:
        one: values, one a seed.
        other: entry i belongs to the same seed as entry i of `one`.

    Raises:
        InputError: lists of different lengths, empty ones, or values that are not finite.
    """
    one, other = _finite(one), _finite(other)
    if len(one) != len(other):
        raise InputError(f"{len(one)} values against {len(other)}; expected pairs, as many of one as of the other")
    # Ordered by size, so that drawn changes of sign are the same for the two lists the other way round.
    differences = sorted((a - b for a, b in zip(one, other, strict=True)), key=lambda found: (abs(found), found))
    count, mean = len(differences), statistics.fmean(differences)
    low = high = None
    if count > 1:
        low, high = _student(mean, statistics.stdev(differences) / math.sqrt(count), count)
    greater, less = _sign_flips(differences, "greater"), _sign_flips(differences, "less")
    return PairedDifference(count, mean, low, high, min(1.0, 2 * min(greater, less)), greater, less)


def resolves(p: float, low: float, high: float) -> bool:
    """Whether a p value and an interval show a difference: p is below `LEVEL`, and the interval leaves 0 out.

    The two do not follow from each other: five differences of one sign have the least p that five can have, and if one
    of them is far larger than the rest, Student's interval holds 0.
    """
    return p < LEVEL and (low > 0 or high < 0)


def least_p(count: int, sides: int = 1) -> float:
    """The least p that so many pairs can give: that of one of all 2^N changes of sign; two-sided, of two of them."""
    return min(1.0, sides * 0.5**count)


def pairs_needed(level: float = LEVEL, sides: int = 1) -> int:
    """The least number of pairs whose p can fall below a level: for 0.05, 5 one-sided and 6 two-sided.

    Args:
        level: above 0, below 1.
        sides: 1 or 2.

    Raises:
        InputError: a level that is not above 0 and below 1.
    """
    if not 0 < level < 1:
        raise InputError(f"level {level:g}; expected above 0 and below 1, such as 0.05")
    count = 1
    while least_p(count, sides) >= level:
        count += 1
    return count


def _finite(values: Sequence[float]) -> list[float]:
    found = [float(value) for value in values]
    if not found:
        raise InputError("no values; expected at least one")
    for value in found:
        if not math.isfinite(value):
            raise InputError(f"a value is {value}; expected finite numbers")
    return found


def _sign_flips(differences: list[float], alternative: Literal["greater", "less"]) -> float:
    if len(differences) == 1:  # which SciPy does not take
        [only] = differences
        return 0.5 if (only > 0 if alternative == "greater" else only < 0) else 1.0
    from scipy.stats import permutation_test  # here: it takes long to import

    found = permutation_test(
        (np.array(differences),),
        lambda signed, axis: np.round(_sums(signed), _DECIMALS),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        alternative=alternative,
        axis=-1,
        random_state=np.random.default_rng(0),
    )
    return float(found.pvalue)


def _sums(values: np.ndarray) -> np.ndarray:
    """Over the last axis, one after the other, so that every machine rounds alike."""
    total = np.zeros(values.shape[:-1])
    for place in range(values.shape[-1]):
        total = total + values[..., place]
    return total


def _student(mean: float, standard_error: float, count: int) -> tuple[float, float]:
    """The interval of Student's t."""
    from scipy.special import stdtrit  # here: it takes long to import

    half = float(stdtrit(count - 1, 0.975)) * standard_error
    return mean - half, mean + half
