"""Intervals against SciPy, against printed values, and against what they promise: how often they hold the truth."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap, norm, t, ttest_1samp, ttest_rel

from regard.bias import Mean, paired_difference, wilson
from regard.bias.intervals import holm, paired_bootstrap, paired_bootstraps, student
from regard.errors import InputError


@pytest.mark.parametrize(
    ("successes", "total"), [(0, 1), (1, 1), (0, 20), (3, 10), (81, 263), (999, 1000), (500, 10000)]
)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_agrees_with_scipy(successes, total, confidence):
    expected = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    assert wilson(successes, total, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_printed_values():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    for successes, total, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)]:
        assert wilson(successes, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_of_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_rate(case):
    successes, total = case
    low, high = wilson(successes, total)
    assert 0 <= low <= successes / total <= high <= 1
    assert wilson(total - successes, total) == pytest.approx((1 - high, 1 - low))


def vectors(both, first, second, neither):
    a = np.repeat([True, True, False, False], [both, first, second, neither])
    b = np.repeat([True, False, True, False], [both, first, second, neither])
    return a, b


@pytest.mark.parametrize(
    ("cells", "difference", "low", "high"),
    [
        ((36, 12, 2, 0), 0.2, 0.0569, 0.3404),  # Newcombe 1998 (paired), table III, method 10
        ((1, 97, 1, 1), 0.96, 0.873672, None),  # there too, as 0.8736
        ((80, 2, 10, 8), -0.08, -0.1554, -0.0102),
    ],
)
def test_paired_printed_values(cells, difference, low, high):
    paired = paired_difference(*vectors(*cells))
    assert paired.difference == pytest.approx(difference)
    assert paired.low == pytest.approx(low, abs=5e-5)
    assert high is None or paired.high == pytest.approx(high, abs=5e-5)
    assert (paired.images, paired.first_only, paired.second_only) == (sum(cells), cells[1], cells[2])


def test_mcnemar():
    assert paired_difference(*vectors(50, 10, 2, 30)).p == pytest.approx(158 / 4096)  # 2 (1 + 12 + 66) / 2^12
    assert paired_difference(*vectors(50, 5, 5, 30)).p == 1
    assert paired_difference(*vectors(50, 0, 0, 30)).p == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_properties(pairs):
    a, b = (np.array(column) for column in zip(*pairs, strict=True))
    one, other = paired_difference(a, b), paired_difference(torch.from_numpy(b), b.tolist() and list(a))
    assert -1 <= one.low <= one.difference <= one.high <= 1
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    assert one.p == pytest.approx(other.p)
    wide = paired_difference(a, b, confidence=0.99)
    assert wide.low <= one.low + 1e-12 and one.high <= wide.high + 1e-12


# Means.


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_student_agrees_with_scipy(confidence):
    values = np.random.default_rng(0).random(12)
    expected = ttest_1samp(values, 0).confidence_interval(confidence)
    found = student(values.mean(), values.std(ddof=1) / math.sqrt(12), 12, confidence)
    assert found == pytest.approx((expected.low, expected.high))


def test_the_interval_of_a_mean():
    values = np.array([0.4, 0.5, np.nan, 0.6, 0.55], np.float32)
    mean, known = Mean.of(values), values[~np.isnan(values)].astype(float)
    expected = ttest_1samp(known, 0).confidence_interval(0.95)
    assert (mean.count, mean.value) == (4, pytest.approx(known.mean()))
    assert (mean.low, mean.high) == pytest.approx((expected.low, expected.high))
    near_one = Mean.of(np.array([1.0, 1.0, 1.0, 0.9]))  # 0.975, and as far above 1 as below 0.95 without the cut
    assert near_one.high == 1 and near_one.low == pytest.approx(0.975 - 0.025 * t.ppf(0.975, 3))
    one, none = Mean.of(np.array([0.5])), Mean.of(np.array([np.nan]))
    assert one.value == 0.5 and math.isnan(one.low) and math.isnan(one.high)
    assert none.count == 0 and math.isnan(none.value) and math.isnan(none.low)


# The paired bootstrap.


def skewed(n, shift=0.0, seed=0):
    """Values of two networks on the same images, alike but for the shift: correlated, lopsided, between 0 and 1."""
    random = np.random.default_rng(seed)
    common = random.beta(0.5, 2, n)
    a, b = (np.clip(common + 0.2 * random.beta(0.7, 3, n) - 0.05, 0, 1) for _ in range(2))
    return a + shift, b


def test_the_bootstrap_agrees_with_scipy():
    a, b = skewed(150, 0.01)
    found = paired_bootstrap(a, b, resamples=20_000)
    # The percentiles that 95% of Student's t ask for, in the terms of the normal distribution.
    level = norm.cdf(t.ppf(0.025, 149) * math.sqrt(150 / 149))
    expected = bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        confidence_level=1 - 2 * level,
        random_state=np.random.default_rng(1),
        batch=1000,
    ).confidence_interval
    width = expected.high - expected.low
    assert found.difference == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02 * width)
    assert (found.images, found.left_out) == (150, 0)
    assert found.resolved == (found.low > 0 or found.high < 0)
    # Of so many images, the t test says nearly the same.
    assert found.p == pytest.approx(ttest_rel(a, b).pvalue, rel=0.25)


CASES = {
    "normal, 10": (10, lambda random, n: random.normal(size=n)),
    "lopsided, 40": (40, lambda random, n: random.beta(0.5, 2, n) - 0.2),
    "few differ": (200, lambda random, n: (random.random(n) < 0.05) * random.choice([-1, 1], n) * random.random(n)),
    "very few differ": (200, lambda random, n: (random.random(n) < 0.02) * random.choice([-1.0, 1.0], n)),
}


@pytest.mark.parametrize("case", CASES)
def test_how_often_the_interval_holds_the_truth(case):
    n, draw = CASES[case]
    random, tries = np.random.default_rng(0), 400
    held = 0
    for _ in range(tries):
        found = paired_bootstrap(draw(random, n), np.zeros(n), resamples=600)
        held += found.low <= 0 <= found.high
        assert found.resolved == (found.p <= 0.05)
    assert held / tries > 0.925  # 0.95 less twice its standard error


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-3, 4), min_size=2, max_size=40),
    st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999]),
    st.integers(0, 3),
)
def test_p_is_that_of_the_interval(differences, confidence, seed):
    values = np.array(differences) / 4
    found = paired_bootstrap(values, np.zeros(len(values)), resamples=300, confidence=confidence, seed=seed)
    assert found.low <= found.high and 0 < found.p <= 1
    assert found.resolved == (found.p <= 1 - confidence)
    turned = paired_bootstrap(np.zeros(len(values)), values, resamples=300, confidence=confidence, seed=seed)
    assert (turned.low, turned.high, turned.p) == pytest.approx((-found.high, -found.low, found.p))


def test_few_images_that_differ_resolve_nothing():
    # Five of a thousand, all in one direction: a test of signs says 1 in 16.
    values = np.zeros(1000)
    values[:5] = 0.4
    found = paired_bootstrap(values, np.zeros(1000))
    assert found.p == 2**-4 and found.low <= 0 < found.high and not found.resolved
    values[:12] = 0.4
    assert paired_bootstrap(values, np.zeros(1000)).resolved


def test_no_difference_and_the_same_difference():
    same = np.random.default_rng(0).random(30)
    found = paired_bootstrap(same, same)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)
    found = paired_bootstrap(np.full(30, 0.75), np.full(30, 0.5))
    assert (found.difference, found.low, found.high) == (0.25, 0.25, 0.25) and found.p < 0.002


def test_images_without_a_number_are_left_out():
    a, b = skewed(60, 0.05)
    gaps = a.copy(), b.copy()
    gaps[0][[3, 7]], gaps[1][[7, 20]] = np.nan, np.nan
    left = np.delete(np.arange(60), [3, 7, 20])
    found, expected = paired_bootstrap(*gaps), paired_bootstrap(a[left], b[left])
    assert (found.images, found.left_out) == (57, 3)
    assert (found.difference, found.low, found.high, found.p) == (
        expected.difference,
        expected.low,
        expected.high,
        expected.p,
    )


def test_one_image_and_none():
    one = paired_bootstrap([0.5, np.nan], [0.25, 0.5])
    assert one.difference == 0.25 and math.isnan(one.low) and one.p == 1 and not one.resolved and one.images == 1
    none = paired_bootstrap([np.nan], [0.5])
    assert math.isnan(none.difference) and math.isnan(none.high) and none.p == 1 and none.images == 0


def test_several_measures_share_draws_and_say_what_each_says_alone():
    a, b = skewed(80, 0.02)
    gap = a.copy()
    gap[5] = np.nan
    pairs = {"one": (a, b), "gap": (gap, b), "other": (torch.from_numpy(b), 1 - a)}
    found = paired_bootstraps(pairs, seed=3, resamples=2000)
    assert list(found) == list(pairs)
    for name, pair in pairs.items():
        alone = paired_bootstrap(*pair, seed=3, resamples=2000)
        assert found[name].p == alone.p and found[name].images == alone.images
        assert (found[name].low, found[name].high) == pytest.approx((alone.low, alone.high), abs=1e-12)


def test_the_seed_decides_the_draws():
    a, b = skewed(50)
    assert paired_bootstrap(a, b) == paired_bootstrap(a, b)
    assert paired_bootstrap(a, b) != paired_bootstrap(a, b, seed=1)


def test_resampling_in_parts(monkeypatch):
    a, b = skewed(50)
    whole = paired_bootstrap(a, b, resamples=500)
    monkeypatch.setattr("regard.bias.intervals._DRAWN", 3000)
    parts = paired_bootstrap(a, b, resamples=500)
    assert (parts.low, parts.high, parts.p) == pytest.approx((whole.low, whole.high, whole.p))


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # 4 p, 3 p, 2 p, then no lower
    assert holm([0.5, 0.9]) == [1, 1] and holm([]) == []


def test_wrong_input():
    with pytest.raises(InputError, match="5 successes of 4"):
        wilson(5, 4)
    with pytest.raises(InputError, match="confidence 95"):
        wilson(1, 4, 95)
    with pytest.raises(InputError, match="vectors of 2 and 3"):
        paired_difference([True, False], [True, False, True])
    with pytest.raises(InputError, match="at least 1"):
        paired_difference(np.zeros(0, bool), np.zeros(0, bool))
    with pytest.raises(InputError, match="int64"):
        paired_difference([0, 1], [1, 0])
    with pytest.raises(InputError, match="vectors of 2 and 1"):
        paired_bootstrap([0.5, 0.5], [0.5])
    with pytest.raises(InputError, match="at least 1"):
        paired_bootstrap([], [])
    with pytest.raises(InputError, match=r"shape \(1, 2\)"):
        paired_bootstrap([[0.5, 0.5]], [[0.5, 0.5]])
    with pytest.raises(InputError, match="2 infinite"):
        paired_bootstrap([0.5, np.inf, -np.inf], [0.5, 0, 0])
    with pytest.raises(InputError, match="7 resamples"):
        paired_bootstrap([0.5], [0.5], resamples=7)
    with pytest.raises(InputError, match="confidence 1;"):
        paired_bootstrap([0.5], [0.5], confidence=1)
