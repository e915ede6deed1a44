"""Statistics over seeds agree with SciPy and with counting by hand."""

from __future__ import annotations

import math
import warnings
from itertools import product

import numpy as np
import pytest
from scipy import stats

from regard.errors import InputError
from regard.tables.statistics import describe, least_p, paired_difference, pairs_needed, resolves

FIVE = [91.2, 91.0, 91.5, 91.1, 91.35]


def drawn(count: int, seed: int = 0) -> list[float]:
    return (90 + np.random.default_rng(seed).normal(size=count)).tolist()


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_mean_median_and_deviation() -> None:
    said = describe([3.0, 1.0, 8.0, 4.0])
    assert (said.count, said.median, said.mean) == (4, 3.5, 4.0)
    assert said.deviation == pytest.approx(math.sqrt(26 / 3))


def test_one_value_has_no_spread() -> None:
    said = describe([91.25])
    assert (said.count, said.median, said.mean) == (1, 91.25, 91.25)
    assert said.deviation is said.low is said.high is None


def test_the_interval_of_two_values() -> None:
    # Standard error 0.5, and 12.7062 is the 97.5th percentile of Student's t with one degree of freedom.
    interval = describe([2.0, 1.0])
    assert (interval.low, interval.high) == pytest.approx((1.5 - 6.3531, 1.5 + 6.3531), abs=1e-4)


@pytest.mark.parametrize("count", [2, 5, 6, 7, 20])
def test_the_interval_agrees_with_scipy(count: int) -> None:
    values = drawn(count)
    interval = describe(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


@pytest.mark.parametrize("count", [2, 3, 6, 7, 20])
@pytest.mark.parametrize("value", [0.1, 94.57, 0.0])
def test_equal_values_have_an_interval_of_one_point(value: float, count: int) -> None:
    said = describe([value] * count)
    assert (said.mean, said.median, said.deviation, said.low, said.high) == (value, value, 0.0, value, value)


def test_the_order_of_seeds_changes_nothing() -> None:
    values = drawn(9)
    assert describe(values) == describe(values[::-1]) == describe(values)


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_the_interval_holds_the_true_mean_in_95_of_100_cases(count: int) -> None:
    samples = np.random.default_rng(count).normal(size=(4000, count))
    intervals = map(describe, samples.tolist())
    assert np.mean([one.low <= 0 <= one.high for one in intervals]) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_bad_values_are_refused(values: list[float]) -> None:
    with pytest.raises(InputError, match="expected"):
        describe(values)
    with pytest.raises(InputError, match="expected"):
        paired_difference(values, values)


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="3 values against 2"):
        paired_difference([1, 2, 3], [1, 2])


@pytest.mark.parametrize("count", [2, 3, 5, 12, 20])
def test_the_interval_of_a_difference_is_that_of_the_paired_t(count: int) -> None:
    one, other = drawn(count), drawn(count, 1)
    ours, theirs = paired_difference(one, other), stats.ttest_rel(one, other).confidence_interval(0.95)
    assert ours.difference == pytest.approx(np.mean(one) - np.mean(other))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize("count", [2, 5, 9])
def test_p_values_are_those_of_all_changes_of_sign(count: int) -> None:
    one, other = drawn(count, 3), drawn(count, 4)
    differences = np.subtract(one, other)
    sums = np.array([np.dot(signs, differences) for signs in product((1, -1), repeat=count)])
    ours = paired_difference(one, other)
    assert ours.p_greater == pytest.approx((sums >= differences.sum() - 1e-9).mean())
    assert ours.p_less == pytest.approx((sums <= differences.sum() + 1e-9).mean())
    assert ours.p_two_sided == pytest.approx(min(1, 2 * min(ours.p_greater, ours.p_less)))
    assert (ours.p_toward(0.4), ours.p_toward(-0.4)) == (ours.p_greater, ours.p_less)


@pytest.mark.parametrize("count", [3, 6, 10])
def test_p_values_are_those_of_scipy(count: int) -> None:
    one, other = drawn(count, 5), drawn(count, 6)
    ours = paired_difference(one, other)
    for alternative, p in (("two-sided", ours.p_two_sided), ("greater", ours.p_greater), ("less", ours.p_less)):
        theirs = stats.permutation_test(
            (one, other), lambda a, b: np.mean(a) - np.mean(b), permutation_type="samples", alternative=alternative
        )
        assert p == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("count", [5, 16])
def test_the_other_way_round_the_p_values_change_places(count: int) -> None:
    # Of 16 pairs the changes of sign are drawn: error rates and accuracies have to come to the same.
    one, other = drawn(count, 3), [value - 0.5 for value in drawn(count, 4)]
    ours, turned = paired_difference(one, other), paired_difference(other, one)
    assert (turned.p_greater, turned.p_less, turned.p_two_sided) == (ours.p_less, ours.p_greater, ours.p_two_sided)


@pytest.mark.parametrize(("count", "exact"), [(13, True), (14, False)])
def test_up_to_thirteen_pairs_have_all_changes_of_sign_taken(count: int, exact: bool) -> None:
    p = paired_difference([value + 5 for value in drawn(count)], drawn(count, 1)).p_greater
    assert (p == 0.5**count) == exact


def test_p_values_of_many_pairs_are_steady_and_agree_with_the_exact_ones() -> None:
    one, other = drawn(16, 3), [value - 1 for value in drawn(16, 4)]
    differences = np.subtract(one, other)
    signs = 1 - 2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1)
    exact = ((signs @ differences) >= differences.sum() - 1e-9).mean()
    ours = paired_difference(one, other)
    assert ours == paired_difference(one, other)
    assert ours.p_greater == pytest.approx(exact, abs=0.006)
    assert 0.01 < exact < 0.09


def test_ties_are_ties_however_numbers_round() -> None:
    # 0.1 + 0.2 - 0.3: the sum is 0 but for rounding, so that sums above, at and below it are 3, 2 and 3 of 8.
    ours = paired_difference([90.1, 90.2, 90.0], [90.0, 90.0, 90.3])
    assert (ours.p_greater, ours.p_less, ours.p_two_sided) == (0.625, 0.625, 1.0)


def test_five_pairs_on_one_side_give_the_least_p() -> None:
    ours = paired_difference([value + 0.1 for value in FIVE], FIVE)
    assert ours.p_greater == ours.p_toward(1) == least_p(5) == 1 / 32
    assert (ours.p_less, ours.p_two_sided) == (1.0, 1 / 16)
    assert ours.p_two_sided == least_p(5, 2)
    assert (ours.low, ours.high) == pytest.approx((0.1, 0.1))


def test_no_difference_at_all() -> None:
    ours = paired_difference(FIVE, FIVE)
    assert (ours.difference, ours.low, ours.high) == (0, 0, 0)
    assert (ours.p_greater, ours.p_less, ours.p_two_sided) == (1, 1, 1)


def test_one_pair() -> None:
    ours = paired_difference([1.0], [2.0])
    assert (ours.count, ours.difference, ours.low, ours.high) == (1, -1.0, None, None)
    assert (ours.p_greater, ours.p_less, ours.p_two_sided) == (1.0, 0.5, 1.0)


def test_how_many_pairs_a_level_needs() -> None:
    assert (pairs_needed(), pairs_needed(0.0625), pairs_needed(0.07), pairs_needed(0.001)) == (5, 5, 4, 10)
    assert (pairs_needed(sides=2), pairs_needed(0.0625, 2), pairs_needed(0.07, 2)) == (6, 6, 5)
    assert (least_p(1, 2), least_p(6, 2)) == (1.0, 1 / 32)
    with pytest.raises(InputError, match="level 0;"):
        pairs_needed(0)


def test_a_difference_is_resolved_by_p_and_interval_together() -> None:
    assert resolves(0.03, 0.1, 0.5) and resolves(0.03, -0.5, -0.1)
    assert not resolves(0.05, 0.1, 0.5)
    assert not resolves(0.03, -0.1, 0.5) and not resolves(0.03, 0.0, 0.5)
    one_pair = paired_difference([2.0], [1.0])
    assert not one_pair.resolved(0.01)
    five = paired_difference([value + 0.1 for value in FIVE], FIVE)
    assert five.resolved(five.p_greater) and not five.resolved(five.p_two_sided)
