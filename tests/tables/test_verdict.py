"""What runs say of a published difference."""

from __future__ import annotations

import pytest

from regard.tables.statistics import PairedDifference, paired_difference
from regard.tables.verdict import verdict

BASE = [90.9, 90.8, 91.0, 90.5, 91.2]


def above(*differences: float) -> PairedDifference:
    base = BASE[: len(differences)]
    return paired_difference([value + by for value, by in zip(base, differences, strict=True)], base)


UP = above(0.3, 0.2, 0.5, 0.6, 0.1)  # 0.34, interval 0.08 to 0.60
DOWN = above(-0.3, -0.2, -0.5, -0.6, -0.1)
MIXED = above(0.3, -0.2, 0.5, -0.6, 0.1)


@pytest.mark.parametrize(
    ("published", "ours", "higher", "faithful", "words", "end"),
    [
        (0.44, UP, True, True, "reproduced", "published +0.44, which the interval holds."),
        (0.05, UP, True, True, "reproduced", "published +0.05, and ours is larger."),
        (0.80, UP, True, True, "same direction, smaller", "published +0.80, further than the interval reaches."),
        (-0.44, UP, True, True, "contradicted", "published −0.44."),
        (0.44, DOWN, True, True, "contradicted", "published +0.44."),
        (-0.44, DOWN, True, True, "reproduced", "published −0.44, which the interval holds."),
        # The published direction counts, not what would be better.
        (-0.44, DOWN, False, True, "reproduced", "published −0.44, which the interval holds."),
        (-0.80, DOWN, False, True, "same direction, smaller", "published −0.80, further than the interval reaches."),
        (-0.05, DOWN, False, True, "reproduced", "published −0.05, and ours is larger."),
        (0.44, UP, True, False, "same direction, in another setting", "published +0.44, in its own setting."),
        (0.80, UP, True, False, "same direction, in another setting", "published +0.80, in its own setting."),
        (-0.44, UP, True, False, "opposite direction, in another setting", "published −0.44, in its own setting."),
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
    start = "+0.34 points (95% interval +0.08 to +0.60) with 5 seeds, p = 0.031; "
    assert said.why == f"{start}published +0.44, which the interval holds."
    assert verdict(0.44, DOWN, higher_is_better=True, faithful=True).why.startswith(
        "−0.34 points (95% interval −0.60 to −0.08) with 5 seeds, p = 0.031; "
    )


@pytest.mark.parametrize(("count", "least"), [(2, "0.25"), (3, "0.125"), (4, "0.0625")])
def test_too_few_seeds_are_said_to_be_too_few(count: int, least: str) -> None:
    said = verdict(0.44, above(*[0.3, 0.31, 0.32, 0.33][:count]), higher_is_better=True, faithful=True)
    assert said.words == f"not resolved with {count} seeds"
    assert f"({count} pairs cannot give less than p = {least}; 5 could)" in said.why


def test_one_seed_and_none() -> None:
    one = verdict(0.44, above(0.3), higher_is_better=True, faithful=True)
    assert (one.words, one.why) == (
        "one seed",
        "+0.30 points with 1 seed, which shows no spread; published +0.44.",
    )
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
    assert "with 18 seeds, p = 0.0" in said.why
