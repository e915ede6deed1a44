"""What images come to: rates, means and their intervals, parts by size."""

import math

import numpy as np
import pytest

from regard.bias import Rate, wilson
from regard.bias.measures import Measures
from regard.bias.summary import MEANS, SIZES, Mean, by_size, summarise


def rows(n=40, **changes):
    random = np.random.default_rng(0)
    columns = {name: random.random(n).astype(np.float32) for name in MEANS}
    columns |= {name: random.random(n) < 0.4 for name in ("correct", "position_bias", "range_bias", "pointing")}
    columns["flat"] = np.zeros(n, bool)
    columns["label"] = np.zeros(n, np.int64)
    return {**columns, **changes}


def test_every_measure_that_is_a_number_has_a_mean():
    numbers = set(Measures.__dataclass_fields__) - {"position_bias", "range_bias", "pointing", "flat"}
    assert set(MEANS) == numbers


def test_what_cannot_be_compared_is_left_out_of_all_but_accuracy():
    columns = rows()
    columns["flat"][:4], columns["region_area"][2:7] = True, 0
    summary, counted = summarise(columns), slice(7, None)
    assert (summary.images, summary.flat_maps, summary.empty_regions) == (40, 4, 5)
    correct = int(columns["correct"].sum())
    assert summary.accuracy == Rate(correct, 40, correct / 40, *wilson(correct, 40))
    for name in ("position_bias", "range_bias", "pointing"):
        assert getattr(summary, name) == Rate.of(columns[name][counted])
    assert summary.means == {name: Mean.of(columns[name][counted]) for name in MEANS}


def test_of_some_images():
    columns = rows()
    which = np.arange(40) % 3 == 0
    places = np.flatnonzero(which)
    expected = summarise({name: values[places] for name, values in columns.items()})
    assert summarise(columns, which) == summarise(columns, places) == expected
    assert expected.images == 14


def test_not_scored():
    summary = summarise(rows(), scored=False)
    assert (summary.accuracy.successes, summary.accuracy.total, summary.images) == (0, 0, 40)
    assert math.isnan(summary.accuracy.value) and (summary.accuracy.low, summary.accuracy.high) == (0, 1)
    assert summary.to_dict()["accuracy"]["value"] is None
    assert summary.position_bias.total == 40


def test_of_no_images():
    summary = summarise(rows(), np.zeros(40, bool))
    assert summary.images == summary.accuracy.total == summary.means["spill"].count == 0
    assert summary.to_dict()["means"]["auc"] == {
        "value": None,
        "standard_error": None,
        "count": 0,
        "low": None,
        "high": None,
    }


@pytest.mark.parametrize(
    ("area", "size"),
    [
        (0, None),
        (1e-5, "small"),
        (np.nextafter(np.float32(1 / 16), np.float32(0)), "small"),
        (1 / 16, "medium"),  # a square of a quarter of the side
        (0.2, "medium"),
        (1 / 4, "large"),  # a square of half the side
        (1, "large"),
    ],
)
def test_sizes(area, size):
    found = by_size(rows(1, region_area=np.array([area], np.float32)))
    assert list(found) == ["small", "medium", "large"] == list(SIZES)
    assert [name for name, which in found.items() if which.tolist() == [True]] == ([size] if size else [])


def test_sizes_are_parts():
    columns = rows()
    columns["region_area"][:5] = 0
    parts = by_size(columns)
    assert sum(which.sum() for which in parts.values()) == 35
    assert sum(summarise(columns, which).images for which in parts.values()) == 35
