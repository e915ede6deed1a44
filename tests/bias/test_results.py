"""Results: rates, means and their intervals, parts by size, records, files."""

import math

import numpy as np
import pytest

from regard.bias import Measures, Results, Summary
from regard.bias.results import SIZES
from regard.bias.rows import COLUMNS
from regard.bias.summary import MEANS
from regard.stats import mean, proportion


def rows(n=40, **changes):
    random = np.random.default_rng(0)
    columns = {name: random.random(n).astype(np.float32) for name in MEANS}
    columns |= {name: random.random(n) < 0.4 for name in ("correct", "position_bias", "range_bias", "pointing")}
    columns["constant"] = np.zeros(n, bool)
    columns["label"] = np.zeros(n, np.int64)
    return {**columns, **changes}


def results_of(columns):
    defaults = {name: np.zeros(len(columns["label"]), dtype) for name, dtype in COLUMNS.items()}
    return Results("net", "set", "", "gradcam", "", "predicted", 0.5, ("a",), {**defaults, **columns})


def test_every_numeric_measure_has_a_mean():
    numbers = set(Measures.__dataclass_fields__) - {"position_bias", "range_bias", "pointing", "constant", "curves"}
    assert set(MEANS) == numbers


def test_constant_maps_and_empty_regions_count_only_for_accuracy():
    columns = rows()
    columns["constant"][:4], columns["region_area"][2:7] = True, 0
    summary, counted = Summary.of(columns), slice(7, None)
    assert (summary.images, summary.constant_maps, summary.empty_regions) == (40, 4, 5)
    correct = int(columns["correct"].sum())
    assert summary.accuracy == proportion(correct, 40)
    for name in ("position_bias", "range_bias", "pointing"):
        assert getattr(summary, name) == proportion(columns[name][counted].sum(), 33)
    assert summary.means == {name: mean(columns[name][counted], 0, 1) for name in MEANS}


def test_summaries_of_a_subset():
    columns = rows()
    mask = np.arange(40) % 3 == 0
    indices = np.flatnonzero(mask)
    expected = Summary.of({name: values[indices] for name, values in columns.items()})
    assert Summary.of(columns, mask) == Summary.of(columns, indices) == expected
    assert expected.images == 14


def test_values_are_nan_without_scores_or_images():
    for summary in (Summary.of(rows(), scored=False), Summary.of(rows(), np.zeros(40, bool))):
        assert summary.accuracy.n == 0 and math.isnan(summary.accuracy.value)
    assert summary.images == summary.means["spill"].n == 0 and math.isnan(summary.means["spill"].high)


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
def test_sizes_depend_on_the_region_area(area, size):
    parts = results_of(rows(1, region_area=np.array([area], np.float32))).by_size
    assert list(parts) == ["small", "medium", "large"] == list(SIZES)
    assert [name for name, summary in parts.items() if summary.images] == ([size] if size else [])


def test_sizes_leave_out_empty_regions():
    columns = rows()
    columns["region_area"][:5] = 0
    assert sum(summary.images for summary in results_of(columns).by_size.values()) == 35
