"""Curves over thresholds: their values, on disk, and as a figure."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch import Tensor, nn

from regard.bias import Results, evaluate, measure, scaled
from regard.bias.rows import CURVES
from regard.errors import InputError
from regard.stats import mean, proportion

SIZE = 24
THRESHOLD_MEASURES = ("position_bias", "range_bias", "spill", "miss", "iou", "focus_area")


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


def red(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Maps of a quarter of the images' size."""
    return images[:, 0, ::4, ::4]


def batches(count: int = 12) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Images with constant, NaN, few-valued and random maps, and empty, partial and full regions."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, SIZE, SIZE, generator=generator)
    images[0] = 0.3
    images[1, 0, 0, 0] = torch.nan
    images[2:5] = (images[2:5] * 4).round() / 4
    regions = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    for i in range(1, count - 1):
        regions[i, i : i + 8, 2 : 4 + i] = True
    regions[count - 1] = True
    regions[6] = False
    return [(images, torch.zeros(count, dtype=torch.long), regions)]


@pytest.fixture(scope="module", params=[0, 3], ids=["no margin", "margin"])
def results(request: pytest.FixtureRequest) -> Results:
    torch.manual_seed(0)
    return evaluate(Network(), batches(), method=red, margin=request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [0, 3])
def test_curves_equal_the_measures_at_each_threshold(margin: int, dtype: torch.dtype) -> None:
    ((images, labels, regions),) = batches()
    results = evaluate(Network().to(dtype), [(images.to(dtype), labels, regions)], method=red, margin=margin)
    maps = red(None, images.to(dtype), labels)
    for level in range(1, 101):
        expected = measure(maps, regions, level / 100, margin=margin)
        rows = results.at(level / 100).rows
        for name in THRESHOLD_MEASURES:
            values = getattr(expected, name).numpy()
            np.testing.assert_array_equal(rows[name], values.astype(rows[name].dtype))


@pytest.mark.parametrize("threshold", [0.01, 0.29, 0.5, 0.57, 1.0])
def test_results_at_another_threshold_equal_a_new_evaluation(results: Results, threshold: float) -> None:
    """Bit for bit."""
    torch.manual_seed(0)
    expected = evaluate(Network(), batches(), method=red, margin=results.margin, threshold=threshold)
    actual = replace(results, threshold=0.333).at(threshold)  # so that 0.5 is read from the curves too
    assert actual.threshold == threshold and list(actual.rows) == list(expected.rows)
    for name, values in expected.rows.items():
        assert actual.rows[name].dtype == values.dtype
        np.testing.assert_array_equal(actual.rows[name], values)
    assert actual.position_bias == expected.position_bias and actual.range_bias == expected.range_bias


def test_curves_hold_rates_and_means_per_threshold(results: Results) -> None:
    counted = ~results.rows["constant"] & (results.rows["region_area"] > 0)
    assert list(results.curves) == list(THRESHOLD_MEASURES)
    for level in (1, 30, 50, 100):
        rows = results.at(level / 100).rows
        assert results.curves["position_bias"][level] == proportion(rows["position_bias"][counted].sum(), counted.sum())
        assert results.curves["spill"][level] == mean(rows["spill"][counted], 0, 1)
    assert all(len(curve) == 101 for curve in results.curves.values())
    assert results.curves["miss"][0].value == 0 and results.curves["focus_area"][0].value == 1


def test_plot_draws_curves_with_intervals(results: Results) -> None:
    axes = results.plot(["position_bias", "iou"]).axes[0]
    line = axes.get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), [rate.value for rate in results.curves["position_bias"][1:]])
    assert len(axes.get_lines()) == len(axes.collections) == 2
    with pytest.raises(InputError, match="unknown measure 'energy'"):
        results.plot(["energy"])


def test_thresholds_without_a_curve_fail(results: Results) -> None:
    for threshold in (0.333, 0.0, 1.01):
        with pytest.raises(InputError, match=f"threshold (is )?{threshold}"):
            results.at(threshold)
    bare = replace(results, rows={name: values for name, values in results.rows.items() if name not in CURVES})
    assert bare.at(0.5) is bare
    with pytest.raises(InputError, match="no curves"):
        bare.at(0.4)


def test_curves_and_maps_are_saved(tmp_path) -> None:
    torch.manual_seed(0)
    results = evaluate(Network(), batches(), method=red, keep_maps=True)
    loaded = Results.load(results.save(tmp_path / "bias.json"))
    assert list(loaded.rows) == list(results.rows)
    for name in CURVES:
        assert loaded.rows[name].dtype == results.rows[name].dtype
        np.testing.assert_array_equal(loaded.rows[name], results.rows[name])
    assert loaded.rows["levels_beyond"].dtype == np.uint8
    assert loaded.rows["focus_inside"].dtype == np.uint16 and loaded.rows["focus_inside"].shape == (12, 101)
    ((images, _, _),) = batches()
    expected = (255 * scaled(red(None, images, None))).round().byte().numpy()
    for actual_map, expected_map in zip(loaded.rows["map"], expected, strict=True):
        np.testing.assert_array_equal(actual_map, expected_map)
    table = results.to_arrow()
    assert table.column_names[-3:] == ["map", "map_height", "map_width"]
    assert table.column("focus_outside").type.list_size == 101


def test_pixel_counts_above_65535_are_not_truncated() -> None:
    images = torch.rand(2, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    regions = torch.zeros(2, 300, 300, dtype=torch.bool)
    regions[0] = True
    actual = evaluate(Network(), [(images, torch.zeros(2, dtype=torch.long), regions)], method=red).rows
    assert actual["focus_inside"][0, 0] == actual["focus_outside"][1, 0] == 90_000
    assert actual["focus_inside"].dtype == np.uint32


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("focus_inside", [1] * 12),
        ("focus_inside", [[1, 2]] * 12),
        ("focus_inside", ["a"] * 12),
        ("only_fg", ["a"] * 12),
    ],
)
def test_damaged_columns_are_refused(results: Results, tmp_path, name: str, column: list) -> None:
    path = results.save(tmp_path / "bias.json")
    table = results.to_arrow()
    others = table.drop_columns([name] if name in table.column_names else [])
    parquet.write_table(others.append_column(name, pa.array(column)), tmp_path / "bias.parquet")
    with pytest.raises(InputError, match="bias.parquet holds no rows of results") as error:
        Results.load(path)
    assert "\n" not in str(error.value)
