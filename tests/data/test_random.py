import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.data.random import RandomStream, check_seed
from regard.errors import InputError


def test_the_stream_of_a_key_equals_the_recorded_one():
    draws = RandomStream(0, 7)
    assert draws.integers(0, 99, 8).tolist() == [35, 24, 30, 15, 68, 36, 23, 32]
    assert draws.permutation(8).tolist() == [3, 0, 2, 5, 7, 1, 4, 6]


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(-1000, 1000), st.integers(0, 1000))
def test_integers_are_within_bounds_and_repeatable(seed, low, width):
    first = RandomStream(seed).integers(low, low + width, (3, 50))
    assert first.min() >= low and first.max() <= low + width
    assert (first == RandomStream(seed).integers(low, low + width, (3, 50))).all()


def test_integers_are_uniform_including_both_bounds():
    counts = np.bincount(RandomStream(3).integers(0, 4, 10000))
    assert len(counts) == 5 and counts.min() > 1850 and counts.max() < 2150


def test_integer_bounds_broadcast():
    high = np.array([0, 1, 1000])
    drawn = RandomStream(1).integers(0, high, (500, 3))
    assert (drawn <= high).all() and (drawn[:, 0] == 0).all() and drawn[:, 2].max() > 900


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 2**32))
def test_a_permutation_holds_every_number_once(count, seed):
    assert sorted(RandomStream(seed).permutation(count).tolist()) == list(range(count))


def test_bernoulli_has_the_given_probability():
    assert not RandomStream(0).bernoulli(0.0, 10000).any()
    assert RandomStream(0).bernoulli(1.0, 10000).all()
    assert 0.28 < RandomStream(0).bernoulli(0.3, 10000).mean() < 0.32


def test_similar_keys_give_different_streams():
    keys = [(1,), (1, 0), (0, 1), (2**32,), (1, 1), (2**32 + 1,)]
    assert len({tuple(RandomStream(*key).permutation(20)) for key in keys}) == len(keys)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", None, True])
def test_invalid_seeds_are_refused(seed):
    with pytest.raises(InputError, match="is not an integer from 0"):
        check_seed(seed)
