"""Results in a notebook: HTML tables of records with escaped text, and figures."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from regard import bias, data, figures, maps, models, report, transfer
from regard.errors import InputError
from regard.notebook import MOST_ROWS, Records, records_html

SCRIPT = "<script>alert(1)</script>"


class Table(HTMLParser):
    """Parses the caption, the cells and all tags of an HTML table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.caption, self.rows, self.tags = "", [], set()
        self._open_tag = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("td", "th", "caption"):
            self._open_tag = tag

    def handle_endtag(self, tag: str) -> None:
        self._open_tag = "" if tag == self._open_tag else self._open_tag

    def handle_data(self, text: str) -> None:
        if self._open_tag == "caption":
            self.caption += text
        elif self._open_tag and text.strip():
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {text.strip()}".strip()


def table(result: Any) -> Table:
    return Table(result._repr_html_())


def test_tables_show_intervals_and_move_constant_columns_to_the_caption() -> None:
    rows = [
        {"model": "a", "measure": "spill", "value": 0.25, "low": 0.2, "high": 0.3, "p_adjusted": 0.0004, "n": 12},
        {"model": "a", "measure": "iou", "value": -2e-5, "low": None, "high": None, "p_adjusted": None, "n": 1200000},
    ]
    html_table = table(Records(rows))
    assert html_table.caption == "model a"
    assert html_table.rows == [
        ["measure", "value", "adjusted p", "n"],
        ["spill", "0.250 0.200 to 0.300", "< 0.001", "12"],
        ["iou", "−2e−05", "–", "1.20 M"],
    ]
    pairs = [{"rate": 0.5, "rate_low": 0.4, "rate_high": 0.6, "none": None, "parts": {"a": 1}, "flag": True}]
    assert table(Records(pairs)).rows == [["rate", "flag"], ["0.500 0.400 to 0.600", "yes"]]


def test_columns_can_be_chosen_and_long_tables_are_cut() -> None:
    records = [{"i": i, "square": i * i} for i in range(MOST_ROWS + 5)]
    html = records_html(records, ["square", "other"])
    assert Table(html).rows[:2] == [["square"], ["0"]] and len(Table(html).rows) == MOST_ROWS + 1
    assert "5 more rows" in html
    assert table(Records()).rows == [[]]


def test_text_in_records_is_escaped() -> None:
    records = [{SCRIPT: SCRIPT, "list": [SCRIPT, "\x1b[31m"], "same": SCRIPT, "name": i} for i in "ab"]
    html_table = table(Records(records))
    assert "script" not in html_table.tags
    assert html_table.rows[0] == ["list", "name"] and html_table.rows[1][0] == rf"{SCRIPT}, \x1b[31m"
    assert html_table.caption == f"{SCRIPT} {SCRIPT}, same {SCRIPT}"


@pytest.fixture(scope="module")
def test_set() -> data.InMemoryDataset:
    test = data.load("clutter", train=10, test=30).test
    return replace(test, classes=(SCRIPT, *test.classes[1:]), name=SCRIPT)


@pytest.fixture(scope="module")
def results(test_set: data.InMemoryDataset) -> list[bias.Results]:
    torch.manual_seed(0)
    return [bias.evaluate(models.create(f"wrn-10-{k}", 10), test_set, name=f"<b>{k}</b>") for k in (0.25, 0.5)]


def test_bias_results_show_rates_with_intervals(results: list[bias.Results]) -> None:
    html_table = table(results[0])
    assert html_table.tags <= {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "br", "small"}
    heading, overall, *classes = html_table.rows
    assert heading[:4] == ["images with", "images", "accuracy", "position bias"]
    assert overall[:2] == ["all", "30"]
    rate = results[0].position_bias
    assert overall[3] == f"{rate.value:.3f} {rate.low:.3f} to {rate.high:.3f}"
    assert f"class {SCRIPT}" in [row[0] for row in classes]
    assert html_table.caption.startswith(f"<b>0.25</b> on {SCRIPT} test: gradcam at")


def test_comparisons_have_tables_and_figures(results: list[bias.Results]) -> None:
    comparison = bias.compare(results[1], results[0])
    html_table = table(comparison)
    assert len(html_table.rows) == 1 + len(comparison.differences) and "b" not in html_table.tags
    assert html_table.rows[0][0] == "measure" and html_table.rows[0][-1] == "significant"
    assert {row[-1] for row in html_table.rows[1:]} <= {"significant", "not significant"}
    figure = comparison.plot(["spill", "iou"])
    values = [line.get_xdata()[0] for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert values == [comparison.differences[name].value for name in ("spill", "iou")]
    with pytest.raises(InputError, match="energy"):
        comparison.plot(["energy"])
    assert isinstance(results[0].plot(), Figure)


def test_explanations_have_tables_and_figures(test_set: data.InMemoryDataset) -> None:
    method = maps.GradCAM(models.create("wrn-10-0.25", 10).eval())
    options = {"mean": test_set.mean, "std": test_set.std, "names": test_set.classes}
    row = next(iter(report.explanations(method, test_set.subset([0]), data.Transform(), top=10, **options)))
    assert len(table(row).rows) == 11 and "script" not in table(row).tags
    figure = row.plot()
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 11 and titles[0] == row.label
    assert any(title.startswith("<script>") for title in titles[1:])
    assert np.array_equal(figure.axes[1].get_images()[0].get_array(), row.cells[0].draw())


def test_pictures_form_a_grid_with_titles_where_they_change() -> None:
    narrow, wide = np.zeros((4, 4)), np.zeros((8, 8, 3), np.uint8)
    figure = figures.pictures({"a": {"x": narrow, "y": wide}, "b": {"x": wide, "y": narrow}, "$c$": {"z": narrow}})
    assert [axes.get_title() for axes in figure.axes] == ["x", "y", "", "", "z"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["a", "", "b", "", "$c$"]
    figure.draw_without_rendering()
    corners = [tuple(np.round(axes.get_position().p0, 2)) for axes in figure.axes]
    assert corners[0][0] == corners[2][0] == corners[4][0] < corners[1][0] == corners[3][0]


def test_costs_and_losses_have_tables() -> None:
    costs = models.count_costs(["wrn-10-1"], ["se"])
    assert [row[:2] for row in table(costs).rows] == [["attention", "gate"], ["none", "–"], ["se", "Sigmoid"]]
    assert table(costs).caption == "network wrn-10-1"
    complexity = models.complexity(models.create("wrn-10-1"), 32)
    assert table(complexity).rows[1] == ["parameters", f"{complexity.parameters:,}"]
    objective = transfer.Objective(models.create("wrn-10-0.5"), models.create("wrn-10-1"), beta=10)
    losses = objective(torch.randn(2, 3, 16, 16), torch.tensor([0, 1]))
    records = losses.to_records()
    assert [(r["term"], r["pair"]) for r in records[:3]] == [("total", None), ("task", None), ("attention", None)]
    assert sum(record["loss"] for record in records[3:]) == pytest.approx(losses.terms["attention"].item())
    assert re.fullmatch(r"\d\.\d{3}", table(losses).rows[1][-1])
