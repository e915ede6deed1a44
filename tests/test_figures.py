"""Figures from plain numbers, and their SVG in a page."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.text import Text

from regard import figures
from regard.stats import Estimate

NAMES = ["cat)", "[red]x[/red]", "$x$ & $y_2", "<b>", "#0072b2", "a\x1b[31m\u202eb", "long " * 40]


def estimate(value: float, reach: float = 0.1) -> Estimate:
    return Estimate(value, value - reach, value + reach, 9)


def curves(names: list[str]) -> Any:
    return figures.curves({name: [{1: 0.1, 2: 0.2}, {1: 0.2, 3: math.nan}] for name in names}, xlabel="epoch")


def intervals(names: list[str]) -> Any:
    rows = {name: estimate(0.1 * i, math.nan if i == 1 else 0.1) for i, name in enumerate(names)}
    return figures.intervals(rows, percent=True, points={names[0]: [0.0, 0.1]}, limits=(0, 1))


def scatter(names: list[str]) -> Any:
    costs = {name: 1e6 * 2**i for i, name in enumerate(names)}
    y = {name: estimate(0.5, 0.1 if i else math.nan) for i, name in enumerate(names)}
    return figures.scatter(costs, y, xlabel="multiply-adds", percent=True, areas=costs)


def histograms(names: list[str]) -> Any:
    return figures.histograms({name: [0.0, 0.5, 1.0, math.nan] for name in names}, levels={names[0]: 0.5})


def profiles(names: list[str]) -> Any:
    return figures.profiles({name: [0.5, 0.1 * i, 0.2] for i, name in enumerate(names)}, xlabel="channel", reach=1)


KINDS = [curves, intervals, scatter, histograms, profiles]


def test_labels_of_coinciding_points_do_not_overlap() -> None:
    names = [f"name {i}" for i in range(8)]
    x = {name: 1e6 * (2 if i % 2 else 1) for i, name in enumerate(names)}
    values = {name: estimate(0.5 if i < 6 else 0.4, math.nan) for i, name in enumerate(names)}
    figure = figures.scatter(x, values, xlabel="multiply-adds", areas=x)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(label) for label in figure.axes[0].texts]  # without arrows
    assert len(boxes) == 8 and all(box.y0 > 0 and box.y1 < figure.bbox.height for box in boxes)
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)


@pytest.mark.parametrize("plot", KINDS)
def test_labels_are_escaped_and_colours_come_from_the_page(plot: Callable[[list[str]], Any]) -> None:
    text = figures.svg(plot(NAMES), "A <title> & $x$")
    root = ElementTree.fromstring(text)
    assert root.attrib["role"] == "img" and root.attrib["aria-label"] == "A <title> & $x$"
    labels = [element.text for element in root.iter("text")]
    for name in NAMES[:5]:
        assert name in labels
    assert r"a\x1b[31m\u202eb" in labels and any(label and label.endswith("…") for label in labels)
    for element in root.iter():
        assert "#0072b2" not in element.get("style", "") and "font-family" not in element.get("style", "")
        assert element.tag not in ("style", "metadata", "script")
    assert "var(--net-1)" in text and "currentColor" in text and "var(--line)" in text and "http:" not in text


@pytest.mark.parametrize("plot", KINDS)
def test_svg_is_deterministic_with_unique_ids(plot: Callable[[list[str]], Any]) -> None:
    first, repeated, other = (figures.svg(plot(NAMES[:2]), title) for title in ("one", "one", "two"))
    assert first == repeated
    ids = [{element.get("id") for element in ElementTree.fromstring(text).iter()} - {None} for text in (first, other)]
    assert not ids[0] & ids[1]  # both may be on one page
    for text, identifiers in zip((first, other), ids, strict=True):
        used = {e.get("href", "#")[1:] for e in ElementTree.fromstring(text).iter("use")}
        assert used <= identifiers


@pytest.mark.parametrize("plot", KINDS)
def test_a_figure_with_one_label_has_no_legend(plot: Callable[[list[str]], Any]) -> None:
    figure = plot(["only"])
    assert not figure.legends
    assert "only" in figures.svg(figure, "t") or plot in (curves, profiles)


def test_bars_leave_a_gap_for_nan() -> None:
    figure = figures.bars([estimate(0.5), estimate(math.nan), estimate(0.2, math.nan)], xlabel="group", level=0.7)
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights[0] == 0.5 and math.isnan(heights[1]) and heights[2] == 0.2
    assert "<svg" in figures.svg(figure, "t")


def test_profiles_leave_gaps_for_nan() -> None:
    lines = {"all": [0.5, math.nan, 0.25, math.inf], "dead": [math.nan] * 4}
    figure = figures.profiles(lines, xlabel="channel")
    assert figure.axes[0].get_ylim() == pytest.approx((0.2425, 0.5075))
    assert "<svg" in figures.svg(figure, "t")


def test_curves_are_means_over_runs() -> None:
    figure = figures.curves({"a": [{1: 0.0, 2: 0.4, 3: 1.0}, {1: 0.2, 2: 0.6}]}, xlabel="epoch")
    *runs, mean = figure.axes[0].get_lines()
    assert [list(run.get_xdata()) for run in runs] == [[1, 2, 3], [1, 2]]
    assert list(mean.get_xdata()) == [1, 2, 3] and list(mean.get_ydata()) == pytest.approx([0.1, 0.5, 1.0])


def test_thirty_six_line_styles_differ() -> None:
    styles = [(figures.colour(i), figures.dashes(i)) for i in range(36)]
    assert len(set(styles)) == 36
    assert {colour for colour, _ in styles[1:]} == set(range(1, len(figures.COLOURS)))


def test_a_legend_of_thirty_labels_fits() -> None:
    figure = curves([f"network {i}" for i in range(30)])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 30
    assert figure.axes[0].get_window_extent().height > 0.4 * legend.get_window_extent().height
    assert legend.get_window_extent().width <= figure.bbox.width


def test_importing_figures_does_not_load_matplotlib() -> None:
    code = "import sys; import regard.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
