"""What runs say of a published difference."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from regard.tables.statistics import PairedDifference, paired_difference
from regard.tables.verdict import verdict

BASE = [90.9, 90.8, 91.0, 90.5, 91.2, 90.7]


def above(*differences: float) -> PairedDifference:
    base = BASE[: len(differences)]
    return paired_difference([value + by for value, by in zip(base, differences, strict=True)], base)


UP = above(0.3, 0.2, 0.5, 0.6, 0.1, 0.4)  # 0.35, interval 0.15 to 0.55
DOWN = above(-0.3, -0.2, -0.5, -0.6, -0.1, -0.4)
UP5, DOWN5 = above(0.3, 0.2, 0.5, 0.6, 0.1), above(-0.3, -0.2, -0.5, -0.6, -0.1)
MIXED = above(0.3, -0.2, 0.5, -0.6, 0.1)


@pytest.mark.parametrize(
    ("published", "ours", "higher", "faithful", "words", "end"),
    [
        (0.44, UP, True, True, "reproduced", "published +0.44, which the interval holds."),
        (0.44, UP5, True, True, "reproduced", "published +0.44, which the interval holds."),
        (0.05, UP, True, True, "reproduced, larger", "published +0.05, and the whole interval lies beyond it."),
        (0.80, UP, True, True, "same direction, smaller", "published +0.80, further than the interval reaches."),
        (-0.44, UP, True, True, "contradicted", "published −0.44."),
        (0.44, DOWN, True, True, "contradicted", "published +0.44."),
        (-0.44, DOWN, True, True, "reproduced", "published −0.44, which the interval holds."),
        # The published direction counts, not what would be better.
        (-0.44, DOWN, False, True, "reproduced", "published −0.44, which the interval holds."),
        (-0.80, DOWN, False, True, "same direction, smaller", "published −0.80, further than the interval reaches."),
        (-0.05, DOWN, False, True, "reproduced, larger", "published −0.05, and the whole interval lies beyond it."),
        (0.44, UP, True, False, "same direction, in another setting", "published +0.44, in its own setting."),
        (0.80, UP, True, False, "same direction, in another setting", "published +0.80, in its own setting."),
        (-0.44, UP, True, False, "opposite direction, in another setting", "published −0.44, in its own setting."),
        # Nobody announced the other direction, nor any where none was published: five seeds are not enough for these.
        (-0.44, UP5, True, True, "not resolved with 5 seeds", "published −0.44."),
        (-0.44, UP5, True, False, "not resolved with 5 seeds", "published −0.44."),
        (0.44, DOWN5, True, True, "not resolved with 5 seeds", "published +0.44."),
        (None, UP5, True, True, "not resolved with 5 seeds", "no difference is published."),
        (0.0, DOWN5, True, True, "not resolved with 5 seeds", "published 0.00, which has no direction."),
        (None, UP, True, True, "better", "no difference is published."),
        (None, UP, True, False, "better", "no difference is published."),
        (None, UP, False, True, "worse", "no difference is published."),
        (None, DOWN, False, True, "better", "no difference is published."),
        (None, DOWN, True, True, "worse", "no difference is published."),
        (0.0, UP, True, True, "better", "published 0.00, which has no direction."),
        (0.0, UP, False, False, "worse", "published 0.00, which has no direction."),
        (1e-14, DOWN, True, True, "worse", "published 0.00, which has no direction."),
        (0.44, MIXED, True, True, "not resolved with 5 seeds", "published +0.44."),
    ],
)
def test_words_and_the_end_of_why(published, ours, higher, faithful, words, end) -> None:
    said = verdict(published, ours, higher_is_better=higher, faithful=faithful)
    assert said.words == words
    assert said.why.endswith(f"; {end}")


def test_why_has_the_numbers() -> None:
    said = verdict(0.44, UP, higher_is_better=True, faithful=True)
    start = "+0.35 points (95% interval +0.15 to +0.55) with 6 seeds, one-sided p = 0.016; "
    assert said.why == f"{start}published +0.44, which the interval holds."
    assert verdict(0.44, DOWN, higher_is_better=True, faithful=True).why.startswith(
        "−0.35 points (95% interval −0.55 to −0.15) with 6 seeds, two-sided p = 0.031; "
    )


@pytest.mark.parametrize(
    ("published", "ours", "p", "sides"),
    [
        (0.44, UP, 1 / 64, 1),
        (-0.44, DOWN, 1 / 64, 1),
        (0.44, DOWN, 2 / 64, 2),
        (-0.44, UP, 2 / 64, 2),
        (None, UP, 2 / 64, 2),
        (None, DOWN, 2 / 64, 2),
        (0.0, UP, 2 / 64, 2),
        (0.44, MIXED, MIXED.p_greater, 1),
        (-0.44, MIXED, MIXED.p_two_sided, 2),
    ],
)
def test_the_test_is_one_sided_only_in_a_direction_that_was_published(published, ours, p, sides) -> None:
    said = verdict(published, ours, higher_is_better=True, faithful=True)
    assert (said.p, said.sides) == (p, sides)
    assert f"{'one' if sides == 1 else 'two'}-sided p = {p:.3f}" in said.why


@pytest.mark.parametrize("published", [0.44, -0.44])
def test_of_equal_columns_no_more_are_resolved_than_is_said(published: float) -> None:
    # All changes of sign of six differences that are about as large: 3 of 64 may be resolved the published way, 1 the
    # other. Without a published direction 1 either way.
    sizes = [0.3, 0.31, 0.32, 0.33, 0.34, 0.35]
    words: Counter[str] = Counter()
    for signs in product((1, -1), repeat=6):
        ours = above(*(sign * size for sign, size in zip(signs, sizes, strict=True)))
        for direction in (published, None):
            said = verdict(direction, ours, higher_is_better=True, faithful=True).words
            words["not resolved" if said.startswith("not") else said] += 1
    assert words.pop("not resolved") >= 128 - 6
    assert words["better"] == words["worse"] == words["contradicted"] == 1
    assert 1 <= words["reproduced"] + words["reproduced, larger"] + words["same direction, smaller"] <= 3


def test_what_is_resolved_has_an_interval_that_leaves_zero_out() -> None:
    # All go the same way, so p is the least there can be; but one is so much larger that Student's interval holds zero.
    five = above(0.1, 0.1, 0.1, 0.1, 2.0)
    assert five.p_greater < 0.05 and five.low < 0
    said = verdict(0.44, five, higher_is_better=True, faithful=True)
    assert said.words == "not resolved with 5 seeds"
    assert "one-sided p = 0.031, but the interval holds zero; published +0.44." in said.why
    six = above(-0.1, -0.1, -0.1, -0.1, -0.1, -3.0)
    for published in (None, 0.44):
        said = verdict(published, six, higher_is_better=True, faithful=True)
        assert said.words == "not resolved with 6 seeds"
        assert "two-sided p = 0.031, but the interval holds zero; " in said.why


@pytest.mark.parametrize(("count", "least"), [(2, "0.25"), (3, "0.125"), (4, "0.0625")])
def test_too_few_seeds_are_said_to_be_too_few(count: int, least: str) -> None:
    said = verdict(0.44, above(*[0.3, 0.31, 0.32, 0.33][:count]), higher_is_better=True, faithful=True)
    assert said.words == f"not resolved with {count} seeds"
    assert f"({count} pairs cannot give less than p = {least}; 5 could)" in said.why


@pytest.mark.parametrize(("count", "least"), [(2, "0.5"), (3, "0.25"), (5, "0.0625")])
def test_without_a_direction_more_seeds_are_needed(count: int, least: str) -> None:
    ours = above(*[0.3, 0.31, 0.32, 0.33, 0.34][:count])
    for published in (None, -0.44):
        said = verdict(published, ours, higher_is_better=True, faithful=True)
        assert said.words == f"not resolved with {count} seeds"
        assert f"({count} pairs cannot give less than p = {least}; 6 could)" in said.why


def test_one_seed_and_none() -> None:
    one = verdict(0.44, above(0.3), higher_is_better=True, faithful=True)
    assert (one.words, one.why) == (
        "one seed",
        "+0.30 points with 1 seed, which shows no spread; published +0.44.",
    )
    assert one.p is one.sides is None
    none = verdict(None, None, higher_is_better=True, faithful=True)
    assert (none.words, none.why) == (
        "no runs",
        "No seed has a run in both columns; no difference is published.",
    )


def test_the_same_difference_in_all_seeds_as_published_is_reproduced() -> None:
    # 0.1 in all, but for rounding: the interval is a point, and the published difference is on it.
    ours = paired_difference([90.1, 91.1, 92.1, 93.1, 94.1], [90.0, 91.0, 92.0, 93.0, 94.0])
    assert verdict(76.4 - 76.3, ours, higher_is_better=True, faithful=True).words == "reproduced"


def test_many_seeds_resolve_what_few_do_not() -> None:
    ours = paired_difference([90 + (0.2 if i % 3 else -0.1) for i in range(18)], [90.0] * 18)
    said = verdict(0.1, ours, higher_is_better=True, faithful=True)
    assert said.words == "reproduced"
    assert "with 18 seeds, one-sided p = 0.0" in said.why
