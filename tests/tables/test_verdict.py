"""The verdict on a published difference, from our runs."""

from __future__ import annotations

import numpy as np
import pytest

from regard.stats import holm, over_seeds
from regard.tables.verdict import tone, verdict

UP = (0.3, 0.2, 0.5, 0.6, 0.1, 0.4)  # mean 0.35; prediction interval for one run: -0.17 to 0.87
MIXED = (0.3, -0.2, 0.5, -0.6, 0.1)


def label(
    published: float | None,
    differences: tuple[float, ...],
    *,
    better: bool = True,
    faithful: bool = True,
    runs: int = 1,
) -> str:
    difference = holm({0: over_seeds(differences, np.zeros(len(differences)))})[0]
    return verdict(
        published, difference, differences, runs=runs, median=False, higher_is_better=better, faithful=faithful
    )


def down(differences: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(-value for value in differences)


@pytest.mark.parametrize(
    ("published", "ours", "expected"),
    [
        (0.44, UP, "significant, compatible with published"),
        (0.80, UP, "significant, compatible with published"),
        (0.90, UP, "significant, smaller than published"),
        (-0.44, UP, "significant, opposite direction"),
        (0.44, down(UP), "significant, opposite direction"),
        (-0.44, down(UP), "significant, compatible with published"),
        (0.44, MIXED, "not significant"),
        (0.44, UP[:2], "not significant"),
        (0.44, UP[:1], "one seed"),
        (0.44, (), "no runs"),
    ],
)
def test_verdicts_on_a_published_difference(published: float, ours: tuple[float, ...], expected: str) -> None:
    assert label(published, ours) == expected


def test_more_published_runs_narrow_the_prediction_interval() -> None:
    assert label(0.02, UP, runs=1) == "significant, compatible with published"
    assert label(0.02, UP, runs=20) == "significant, larger than published"
    assert label(0.0, UP, runs=20) == "significant, larger than published"


def test_unpublished_differences_are_better_or_worse() -> None:
    assert [label(None, UP, better=better) for better in (True, False)] == ["significant, better", "significant, worse"]


@pytest.mark.parametrize(
    ("published", "ours", "expected"),
    [
        (0.44, UP, "preliminary, significant, same direction"),
        (9.0, UP, "preliminary, significant, same direction"),
        (-0.44, UP, "preliminary, significant, opposite direction"),
        (None, UP, "preliminary, significant, better"),
        (0.44, MIXED, "preliminary, not significant"),
        (0.44, UP[:1], "preliminary, one seed"),
        (0.44, (), "no runs"),
    ],
)
def test_shortened_schedules_and_other_data_are_preliminary(published, ours, expected: str) -> None:
    """Nothing is called compatible, or smaller than published."""
    assert label(published, ours, faithful=False) == expected


def test_verdicts_have_tones() -> None:
    labels = ("significant, compatible with published", "preliminary, significant, same direction", "not significant")
    assert [tone(one) for one in labels] == ["good", "good", ""]
    assert [tone(f"significant, {one}") for one in ("smaller than published", "opposite direction")] == ["mid", "bad"]


def test_significant_means_an_adjusted_p_below_5_percent() -> None:
    """Without it nothing is significant, even if the interval and the unadjusted p exclude zero."""
    gains = np.random.default_rng(0).normal(1, 0.6, (12, 4))
    family = holm({i: over_seeds(gain, np.zeros(4)) for i, gain in enumerate(gains)})
    labels = {
        i: verdict(0.5, difference, gains[i], runs=3, median=False, higher_is_better=True, faithful=i % 2 == 0)
        for i, difference in family.items()
    }
    assert any(difference.p < 0.05 <= difference.p_adjusted and difference.low > 0 for difference in family.values())
    assert any(difference.significant for difference in family.values())
    for i, difference in family.items():
        assert ("not significant" not in labels[i]) == (difference.p_adjusted < 0.05)
