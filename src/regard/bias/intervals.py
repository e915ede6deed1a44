"""Intervals: for proportions and means, and for the difference of two on the same images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from torch import Tensor

from regard.errors import InputError

Vector = Sequence[float] | np.ndarray | Tensor


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
    _check_confidence(confidence)
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def student(mean: float, standard_error: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of Student's t for a mean.

    Exact for values of a normal distribution, and good for the mean of some tens of bounded values, whatever theirs is;
    below that the plain normal interval would be too short.

    Args:
        mean: of the values.
        standard_error: of the mean, from the standard deviation with N - 1.
        count: N; below 2 both ends are NaN.
        confidence: above 0, below 1.

    Returns:
        (low, high)

    Raises:
        InputError: a confidence out of range.
    """
    from scipy.special import stdtrit  # here: it takes long to import

    _check_confidence(confidence)
    if count < 2:
        return math.nan, math.nan
    half = float(stdtrit(count - 1, (1 + confidence) / 2)) * standard_error
    return mean - half, mean + half


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


@dataclass(frozen=True)
class MeanDifference:
    """The difference of the means of a measure over the same images.

    Attributes:
        difference: the mean of the first minus that of the second; NaN of no image.
        low: lower end of its interval; NaN of fewer than two images.
        high: upper end.
        p: two-sided, that of the narrowest interval that does not leave 0 out; 1 of fewer than two images.
        images: for which the measure is a number in both.
        left_out: images for which it is not.
    """

    difference: float
    low: float
    high: float
    p: float
    images: int
    left_out: int

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    first: Vector, second: Vector, *, resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> MeanDifference:
    """How the mean of a measure differs between two vectors on the same images.

    Images are drawn with replacement, each with both its values, and the mean difference of each draw taken. The
    interval lies between percentiles of these, which are moved outwards as far as Student's t is wider than the normal
    distribution, since draws from few images vary too little. p is that of the same interval. As no test of signs could
    say more, p is at least 2^(1 - m) where m images differ at all; where this, or the number of resamples, does not
    bear an interval that leaves 0 out, it is extended to 0.

    Source: Efron 1979; the expanded percentiles: Hesterberg 2015 (arXiv 1411.5279). Not BCa (Efron 1987), which
    suits lopsided differences but leaves 0 out too often where only some of many images differ.

    The cost grows with images times resamples: 50,000 by 10,000 take some 5 s on one core, and 30 MB. Several measures
    of the same images cost little more than one: see `paired_bootstraps`.

    Args:
        first: (N,), numbers; NaN where there is none.
        second: (N,); entry i belongs to the same image as entry i of the first.
        resamples: at least 100; more make ends and p steadier (at 10,000 p moves by about 0.002 at 0.05).
        confidence: above 0, below 1.
        seed: of the draws; the same one gives the same answer.

    Raises:
        InputError: vectors that are not numbers, of different lengths, empty or infinite; a number out of range.
    """
    pairs = {"": (first, second)}
    return paired_bootstraps(pairs, resamples=resamples, confidence=confidence, seed=seed)[""]


def paired_bootstraps(
    pairs: Mapping[str, tuple[Vector, Vector]], *, resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> dict[str, MeanDifference]:
    """`paired_bootstrap` of several measures, given by name, with the same answers; those known of the same images
    share their draws.

    Raises:
        InputError: as `paired_bootstrap`.
    """
    _check_confidence(confidence)
    if resamples < 100:
        raise InputError(f"{resamples} resamples; expected at least 100, such as 10000")
    known: dict[str, np.ndarray] = {}
    values: dict[str, np.ndarray] = {}
    for name, (first, second) in pairs.items():
        a, b = _numbers(first), _numbers(second)
        if len(a) != len(b) or not len(a):
            raise InputError(f"vectors of {len(a)} and {len(b)} entries; expected the same number, at least 1")
        known[name] = ~np.isnan(a - b)
        values[name] = (a - b)[known[name]]
    alike: dict[bytes, list[str]] = {}
    for name, mask in known.items():
        alike.setdefault(mask.tobytes(), []).append(name)
    found = {}
    for names in alike.values():
        together = np.stack([values[name] for name in names], 1)  # (images, measures)
        means = _resampled_means(together, resamples, seed)
        for i, name in enumerate(names):
            left_out = len(known[name]) - len(together)
            found[name] = _mean_difference(together[:, i], means[:, i], left_out, confidence)
    return {name: found[name] for name in pairs}


def holm(p: Sequence[float]) -> list[float]:
    """p values of several tests raised, so that where there is nothing to find, the chance that any of them falls below
    a level is at most that level; in the same order.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    raised = [1.0] * len(p)
    highest = 0.0
    for place, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - place) * p[i]))
        raised[i] = highest
    return raised


_DRAWN = 1 << 20  # numbers drawn at once


def _resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means over images drawn with replacement: values (N, K) -> (resamples, K), each column in ascending order."""
    n = len(values)
    parts = [counts @ values for counts in _draws(n, resamples, seed)] if n > 1 else []
    means = np.concatenate([np.empty((0, values.shape[1])), *parts]) / max(n, 1)
    means[abs(means) < 1e-13] = 0  # what is left of 0 by rounding must not count as above or below it
    return np.sort(means, axis=0)


def _draws(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `n` images is drawn when `n` are, (a part of the resamples, n); in parts, for the memory."""
    random = np.random.default_rng(seed)
    rows = max(1, _DRAWN // n)
    for start in range(0, resamples, rows):
        part = min(rows, resamples - start)
        drawn = random.integers(0, n, (part, n)) + n * np.arange(part)[:, None]
        yield np.bincount(drawn.ravel(), minlength=part * n).reshape(part, n).astype(np.float64)


def _mean_difference(values: np.ndarray, means: np.ndarray, left_out: int, confidence: float) -> MeanDifference:
    """From the differences of the images and the sorted means of resamples of them."""
    from scipy.special import ndtr, ndtri, stdtr, stdtrit  # here: it takes long to import

    n = len(values)
    if n < 2:
        only = float(values[0]) if n else math.nan
        return MeanDifference(only, math.nan, math.nan, 1.0, n, left_out)
    stretch = math.sqrt(n / (n - 1))
    level = ndtr(stretch * stdtrit(n - 1, (1 - confidence) / 2))  # of the lower end
    places = len(means) + 1
    place = max(1, math.floor(level * places))  # the place from either end, from 1
    low, high = float(means[place - 1]), float(means[-place])
    # 0 is left out below if it lies under the mean of that place, so if at most place - 1 means are not above it.
    beyond = min((means <= 0).sum(), (means >= 0).sum()) + 1
    p = 2 * float(stdtr(n - 1, ndtri(beyond / places) / stretch)) if beyond < places else 1.0
    p = min(1.0, max(p, 2.0 ** (1 - int((values != 0).sum()))))
    if p > 1 - confidence:
        low, high = min(low, 0.0), max(high, 0.0)
    return MeanDifference(float(values.mean()), low, high, p, n, left_out)


def _mcnemar(first_only: int, second_only: int) -> float:
    from scipy.stats import binomtest  # here: it takes long to import

    differing = first_only + second_only
    return float(binomtest(first_only, differing, 0.5).pvalue) if differing else 1.0


def _booleans(values: Any) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1 or array.dtype != np.bool_:
        raise InputError(f"a vector is {array.dtype} of shape {array.shape}; expected booleans of shape (N,)")
    return array


def _numbers(values: Any) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "fiub":
        raise InputError(f"a vector is {array.dtype} of shape {array.shape}; expected numbers of shape (N,)")
    array = array.astype(np.float64)
    if np.isinf(array).any():
        raise InputError(f"a vector has {int(np.isinf(array).sum())} infinite entries; expected numbers, or NaN")
    return array


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence}; expected above 0 and below 1, such as 0.95")
