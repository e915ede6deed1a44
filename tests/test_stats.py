"""Intervals have the stated coverage, and tests the stated error rate."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
import torch

from regard.errors import InputError
from regard.stats import (
    Difference,
    bootstrap,
    compatible,
    holm,
    mean,
    over_seeds,
    paired_means,
    paired_proportions,
    proportion,
    without_nan,
)

SIZES = (2, 3, 5, 20)
DRAWS = 1200  # the standard error of a coverage of 95% is 0.6%


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape[-1]).normal(size=shape)


def share(outcomes: list[bool]) -> float:
    return float(np.mean(outcomes))


@pytest.mark.parametrize("n", SIZES)
def test_wilson_interval_has_its_coverage_on_average(n: int) -> None:
    rates = np.linspace(0.0005, 0.9995, 1000)
    coverage = np.zeros_like(rates)
    for k in range(n + 1):
        interval = proportion(k, n)
        coverage += scipy.stats.binom.pmf(k, n, rates) * ((interval.low <= rates) & (rates <= interval.high))
    assert coverage.mean() == pytest.approx(0.95, abs=0.02)


def all_counts(n: int) -> list[tuple[int, int, int, int]]:
    """All counts (both right, first only, second only, neither) that sum to n."""
    counts = ((a, b, c, n - a - b - c) for a, b, c in product(range(n + 1), repeat=3))
    return [row for row in counts if row[3] >= 0]


def outcome_vectors(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = [both, first, second, neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize("n", SIZES)
def test_newcombe_has_its_coverage_and_mcnemar_its_level(n: int) -> None:
    truths = np.random.default_rng(0).dirichlet(np.ones(4), 300)
    truth = truths[:, 1] - truths[:, 2]
    equal = truths.copy()
    equal[:, 1:3] = equal[:, 1:3].mean(1, keepdims=True)
    coverage, rejected = np.zeros(len(truths)), np.zeros(len(truths))
    for counts in all_counts(n):
        result = paired_proportions(*outcome_vectors(*counts))
        coverage += scipy.stats.multinomial.pmf(counts, n, truths) * ((result.low <= truth) & (truth <= result.high))
        rejected += scipy.stats.multinomial.pmf(counts, n, equal) * (result.p < 0.05)
    assert coverage.mean() == pytest.approx(0.95, abs=0.02)
    assert rejected.max() < 0.05


@pytest.mark.parametrize("n", SIZES)
def test_t_interval_of_the_mean_has_its_coverage(n: int) -> None:
    estimates = [mean(values + 3) for values in normal(DRAWS, n)]
    assert share([estimate.low <= 3 <= estimate.high for estimate in estimates]) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("test", [paired_means, over_seeds])
def test_paired_t_has_its_coverage_and_level(test, n: int) -> None:
    shared = normal(DRAWS, 1, n)
    values = normal(DRAWS, 2, n) + 2 * shared + np.array([[0.5], [0]])
    differences = [test(a, b) for a, b in values]
    if test is over_seeds and n < 3:
        assert all(d.p is None and math.isnan(d.low) for d in differences)
        return
    assert share([d.low <= 0.5 <= d.high for d in differences]) == pytest.approx(0.95, abs=0.02)
    rejected = share([test(a - 0.5, b).p < 0.05 for a, b in values])
    assert rejected == pytest.approx(0.05, abs=0.02)


def test_holm_keeps_the_level_of_a_family() -> None:
    """Five comparisons with one column that do not differ: the rate at which any is significant."""
    errors = []
    for columns in normal(DRAWS, 6, 5):
        family = holm({i: over_seeds(columns[i], columns[0]) for i in range(1, 6)})
        errors.append(any(difference.significant for difference in family.values()))
    assert 0.005 < share(errors) < 0.05 + 0.01


def test_holm_by_hand() -> None:
    family = {name: Difference(1, 0, 2, p, None, 5) for name, p in dict(a=0.04, b=0.01, c=None, d=0.03).items()}
    adjusted = {name: difference.p_adjusted for name, difference in holm(family).items()}
    assert adjusted == {"a": pytest.approx(0.06), "b": pytest.approx(0.03), "c": None, "d": pytest.approx(0.06)}
    assert [difference.significant for difference in holm(family).values()] == [False, True, False, False]
    assert not family["b"].significant  # not before it is corrected


@pytest.mark.parametrize("n", [3, 5, 20])
@pytest.mark.parametrize(("runs", "median"), [(1, False), (None, False), (3, False), (5, False), (3, True), (5, True)])
def test_perfect_replications_are_compatible_at_the_stated_rate(n: int, runs: int | None, median: bool) -> None:
    """Two columns that differ by chance only, published and replicated, not paired by seed."""
    replicated, published = normal(DRAWS, 2, n), normal(DRAWS, 2, 100 + (runs or 1))[:, :, : runs or 1]
    summary = np.median if median else np.mean
    differences = summary(published[:, 0], axis=-1) - summary(published[:, 1], axis=-1)
    contained = [compatible(a - b, d, runs, median) for (a, b), d in zip(replicated, differences, strict=True)]
    assert share(contained) == pytest.approx(0.95, abs=0.02)


def test_intervals_and_p_values_equal_scipy() -> None:
    a, b = normal(2, 12)
    expected = scipy.stats.ttest_rel(a, b)
    result = paired_means(a, b)
    interval = expected.confidence_interval()
    assert (result.p, result.low, result.high) == pytest.approx((expected.pvalue, interval.low, interval.high))
    assert over_seeds(torch.tensor(a), torch.tensor(b)) == result
    assert proportion(7, 10).low == scipy.stats.binomtest(7, 10).proportion_ci(method="wilson").low
    first, second = outcome_vectors(3, 9, 1, 2)
    assert paired_proportions(first, second).p == scipy.stats.binomtest(9, 10).pvalue


def test_newcombe_1998_table_2() -> None:
    """Method 10, published to four places."""
    difference = paired_proportions(*outcome_vectors(36, 12, 2, 0))
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=1e-4)


def test_missing_and_constant_values_have_no_interval() -> None:
    nan = math.nan
    for estimate, n in ((proportion(0, 0), 0), (mean([]), 0), (mean([nan]), 0), (mean([0.5]), 1), (mean([0.5] * 3), 3)):
        assert estimate.n == n and math.isnan(estimate.low) and math.isnan(estimate.high)
    assert math.isnan(mean([]).value) and mean([nan, 1, 2]).value == 1.5
    assert paired_means([1.0, nan, 3.0], [1.0, 2.0, 2.0]).n == 2
    assert (over_seeds([1, 2, 3], [1, 2, 3]).p, over_seeds([2, 3, 4], [1, 2, 3]).p) == (1.0, None)
    assert over_seeds([], []).p is None and paired_proportions(np.zeros(0, bool), np.zeros(0, bool)).p is None


def test_json_has_none_for_nan_and_infinities() -> None:
    record = {"a": math.nan, "b": -math.inf, "c": 0.5, "d": 1, "e": "nan"}
    assert without_nan(record) == {"a": None, "b": None, "c": 0.5, "d": 1, "e": "nan"}


def test_intervals_are_clipped_to_the_range() -> None:
    estimate = mean([0.0, 0.0, 0.9], 0, 1)
    assert (estimate.low, estimate.high) == (0, 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: proportion(3, 2),
        lambda: mean([[1.0]]),
        lambda: mean([math.inf]),
        lambda: paired_means([1.0, 2.0], [1.0]),
        lambda: paired_proportions([1, 0], [True, False]),
        lambda: compatible([1.0, 2.0], 1.0, 1),
    ],
)
def test_wrong_input_is_refused(call) -> None:
    with pytest.raises(InputError):
        call()


def test_bootstrap_has_its_coverage_and_level() -> None:
    rng = np.random.default_rng(0)
    contained, rejected = [], []
    for _ in range(DRAWS // 2):
        values = rng.normal(0.0, 1.0, 60)
        resampled = values[rng.integers(0, 60, (400, 60))].mean(1)
        difference = bootstrap(float(values.mean()), resampled, 60)
        contained.append(difference.low <= 0 <= difference.high)
        rejected.append(difference.p < 0.05)
    assert share(contained) == pytest.approx(0.95, abs=0.03) and share(rejected) == pytest.approx(0.05, abs=0.03)
    assert bootstrap(0.5, [1.0, math.nan, 2.0, -1.0], 3).p == 1.0
    assert bootstrap(0.5, [1.0] * 99, 3).p == pytest.approx(0.02) and bootstrap(0.5, [1.0], 1).p is None
    assert math.isnan(bootstrap(math.nan, [math.nan], 5).low)
