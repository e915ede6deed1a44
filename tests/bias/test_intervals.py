"""Intervals against SciPy and against printed values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from regard.bias import paired_difference, wilson
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
