"""Weights over the course of training."""

from __future__ import annotations

import math

import pytest

from regard import InputError
from regard.transfer import Weight, as_weight, check_range


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (Weight(5, shape="constant"), (5, 5, 5, 5)),
        (Weight(8, 4), (8, 7, 6, 4)),
        (Weight(8, begin=0.25, until=0.75), (8, 8, 4, 0)),
        (Weight(8, shape="cosine"), (8, 4 + 4 * math.cos(math.pi / 4), 4, 0)),
        (Weight(8, shape="step", milestones=(0.25, 0.5), factor=0.5), (8, 4, 2, 2)),
        (Weight(0, 8), (0, 2, 4, 8)),
    ],
)
def test_schedule_shapes(weight, expected) -> None:
    assert [weight.at(share) for share in (0, 0.25, 0.5, 1)] == pytest.approx(expected)
    assert weight.used


def test_weights_from_numbers_and_fields() -> None:
    assert as_weight(3).at(0.7) == 3 and not as_weight(0).used and not Weight(0).used
    assert as_weight({"start": 1000, "end": 0, "shape": "cosine"}) == Weight(1000.0, 0.0, "cosine")
    assert as_weight({"start": 1, "shape": "step", "milestones": [0.5]}) == Weight(1.0, 0.0, "step", milestones=(0.5,))
    assert [str(as_weight(value)) for value in (3, {"start": 2}, {"start": 2, "shape": "cosine"})] == [
        "3",
        "2 to 0",
        "2 to 0 (cosine)",
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"start": 1, "shape": "round"}, "known: constant, cosine, linear, step"),
        ({"end": 1}, "without a start"),
        ({"start": 1, "ends": 0}, "did you mean 'end'"),
        ({"start": "x"}, "has to be a number"),
        ({"start": True}, "has to be a number"),
        ({"start": math.inf}, "in (-inf, inf)"),
        ({"start": 1, "begin": 0.5, "until": 0.5}, "begin < until"),
        ({"start": 1, "shape": "step"}, "no milestones"),
        ({"start": 1, "shape": "step", "milestones": [60]}, "fraction of the run"),
        ({"start": 1, "shape": "step", "milestones": 0.5}, "give a list"),
        ({"start": 1, "shape": "step", "milestones": [0.2, 0.4], "factor": 1e300}, "does not stay finite"),
        ("1000", "has to be a number"),
    ],
)
def test_wrong_weights_fail_with_one_line(value, message) -> None:
    with pytest.raises(InputError) as error:
        as_weight(value)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_ranges_are_checked_over_the_whole_run() -> None:
    check_range("alpha", Weight(0.9, 0.1), 0, 1)
    oscillating = Weight(0.5, shape="step", milestones=(0.25, 0.5), factor=-1)
    overshooting = Weight(0.1, shape="step", milestones=(0.5, 0.25, 1.0), factor=-4)
    for weight in (Weight(0.5, 2), Weight(-1, 0), oscillating, overshooting):
        with pytest.raises(InputError, match="alpha is .* has to be in"):
            check_range("alpha", weight, 0, 1)
