"""Filled tables: statistics, records and output formats."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import pytest
from support import filled_tables as made_up

from regard import tables
from regard.console import Console
from regard.formatting import csv_text
from regard.tables import FilledTable, Grid, document

FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", " =1")


def printed(filled: FilledTable, width: int = 160) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        console.print(tables.TerminalTable(filled))
    return captured.get()


def formatted(form: str, filled: FilledTable) -> str:
    return {"terminal": printed, "markdown": lambda table: document(table).to_markdown(), "latex": as_latex}[form](
        filled
    )


def as_latex(filled: FilledTable) -> str:
    return document(filled, detail=False).to_latex()


def rows(grid: Grid) -> dict[str, tuple[str, ...]]:
    return {row[0]: row[1:] for row in grid.rows}


def grids(filled: FilledTable, **options: bool) -> dict[str, Grid]:
    return {grid.title: grid for grid in document(filled, **options).grids}


def test_a_document_has_values_comparisons_seeds_and_recipes() -> None:
    grids_by_title = grids(made_up.full())
    assert list(grids_by_title) == ["", "Comparisons", "Seeds", "Recipes"]
    assert grids_by_title[""].headings == ("", "", "SE", "LSAS-SE")
    assert grids_by_title[""].rows == (
        ("CIFAR-10", "published", "94.57", "95.01"),
        ("", "ours", "94.56 ± 0.10 (5)", "95.00 ± 0.15 (5)"),
        ("STL-10", "published", "83.81†", "–"),
        ("", "ours", "–", "no recipe"),
    )
    expected = ("+0.44", "+0.44 (+0.38 to +0.50)", "< 0.001", "significant, compatible with published")
    assert rows(grids_by_title["Comparisons"]) == {
        "CIFAR-10: LSAS-SE − SE": expected,
        "STL-10: LSAS-SE − SE": ("–", "–", "–", "no runs"),
    }
    values = "0: 94.50, 1: 94.61, 2: 94.55, 3: 94.70, 4: 94.44"
    assert rows(grids_by_title["Seeds"])["CIFAR-10, SE"] == ("94.56", "94.44 to 94.68", values)
    assert rows(grids_by_title["Recipes"])["CIFAR-10, SE"] == ("164", "lsas/resnet164-se-cifar10", "3f2a9c01", "0.7.0")


def test_only_runs_omits_cells_and_comparisons_without_runs() -> None:
    grids_by_title = grids(made_up.full(), only_runs=True)
    assert list(rows(grids_by_title[""])) == ["CIFAR-10, SE", "CIFAR-10, LSAS-SE"]
    assert list(rows(grids_by_title["Comparisons"])) == ["CIFAR-10: LSAS-SE − SE"]


def test_medians_are_shown_if_medians_were_published() -> None:
    filled = replace(made_up.full(), table=made_up.table(statistic="median"))
    assert grids(filled)[""].rows[1][2:] == ("94.55 ± 0.10 (5)", "94.95 ± 0.15 (5)")


def test_records_have_statistics_over_seeds() -> None:
    record = next(row for row in made_up.full().to_records() if row["column"] == "se")
    assert (record["n"], record["median"], record["published"]) == (5, 94.55, 94.57)
    assert (record["mean"], record["deviation"]) == pytest.approx((94.56, 0.100250), abs=1e-4)
    assert (record["low"], record["high"]) == pytest.approx((94.4355, 94.6845), abs=1e-4)
    assert record["seeds"] == [0, 1, 2, 3, 4] and record["values"] == made_up.SE


def test_one_seed_has_no_deviation_no_interval_and_no_test() -> None:
    filled = made_up.filled(made_up.table(), {("cifar10", "se"): [94.5], ("cifar10", "lsas-se"): [95.0]})
    assert grids(filled)[""].rows[1][2:] == ("94.50 (1)", "95.00 (1)")
    assert [filled.to_records()[0][name] for name in ("deviation", "low", "high")] == [None] * 3
    first = filled.comparison_records()[0]
    assert (first["difference"], first["p_adjusted"], first["verdict"]) == (pytest.approx(0.5), None, "one seed")


def test_all_comparisons_of_a_table_are_corrected_together() -> None:
    """Three columns are compared with one; Holm's method adjusts p."""
    columns = {name: name for name in "abcd"}
    cells = {("r", name): tables.Cell("r", name, (None,), recipe=f"x/{name}") for name in columns}
    pairs = (("b", "a"), ("c", "a"), ("d", "a"))
    published = made_up.table(rows={"r": "R"}, columns=columns, cells=cells, comparisons=pairs)
    base = [70.0, 71.0, 72.0, 70.5]
    gains = {"a": [0, 0, 0, 0], "b": [1, 1.2, 0.9, 1.1], "c": [0.2, -0.3, 0.4, 0], "d": [0.5, 0.9, 0.7, 0.2]}
    values = {("r", n): [x + y for x, y in zip(base, gain, strict=True)] for n, gain in gains.items()}
    results = made_up.filled(published, values).comparisons
    p = [comparison.difference.p for comparison in results]
    adjusted = [comparison.difference.p_adjusted for comparison in results]
    assert p[0] < p[2] < 0.05 < p[1]
    assert adjusted == pytest.approx([3 * p[0], p[1], 2 * p[2]])
    assert [comparison.verdict for comparison in results] == ["significant, better", *["not significant"] * 2]


def test_shortened_schedules_and_other_data_are_preliminary() -> None:
    filled = made_up.several()
    facts = dict(document(filled).facts)
    assert "schedule 0.09756 of the published epochs, data.train_images 12000" in facts.values() or any(
        "data.train_images 12000" in text for text in facts.values()
    )
    assert not filled.faithful and made_up.full().faithful
    assert {comparison.verdict.partition(",")[0] for comparison in filled.comparisons} == {"preliminary", "no runs"}


def test_several_metrics_with_a_run_that_lacks_one() -> None:
    grids_by_title = grids(made_up.several())
    assert grids_by_title[""].rows[0][:3] == ("ResNet-50", "top-1, %, published", "76.384")
    assert grids_by_title[""].rows[3][1:3] == ("top-5, %, ours", "92.10 ± 0.10 (3)")
    assert rows(grids_by_title["Seeds"])["ResNet-50, SA, top-5, %"][2] == "0: 92.90, 2: 93.10"


def test_a_metric_without_values_is_called_not_measured() -> None:
    published = made_up.table(metrics=(tables.METRICS["gflops"],))
    filled = made_up.filled(published, {("cifar10", "se"): [(None,)]})
    assert grids(filled, wide=False)[""].rows[0][2] == "not measured"
    assert [row[1] for row in grids(filled)[""].rows] == ["published", "published"]


def test_a_difference_of_an_unchecked_number_is_marked() -> None:
    cells = dict(made_up.table().cells)
    cells["cifar10", "se"] = replace(cells["cifar10", "se"], checked=False)
    filled = replace(made_up.full(), table=made_up.table(cells=cells))
    filled = replace(filled, cells={key: replace(cell, cell=cells[key]) for key, cell in filled.cells.items()})
    assert rows(grids(filled)["Comparisons"])["CIFAR-10: LSAS-SE − SE"][0] == "+0.44†"


def test_a_teacher_shared_by_several_runs_is_noted() -> None:
    filled = made_up.full()
    cell = filled.cells["cifar10", "se"]
    runs = tuple(replace(run, teacher="wide-seed0") for run in cell.runs)
    filled = replace(filled, cells={**filled.cells, ("cifar10", "se"): replace(cell, runs=runs)})
    assert "5 (wide-seed0)" in dict(document(filled).notes).values()


def test_a_run_in_several_cells_counts_once() -> None:
    filled = made_up.full()
    twice = replace(filled, cells={**filled.cells, ("stl10", "se"): filled.cells["cifar10", "se"]})
    assert len(twice.finished) == len(filled.finished) == 10


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex"])
def test_all_formats_have_facts_and_notes_and_are_deterministic(form: str) -> None:
    text = " ".join(formatted(form, made_up.full()).replace("\\", "").replace("{}", "").split())
    assert text == " ".join(formatted(form, made_up.full()).replace("\\", "").replace("{}", "").split())
    for part in ("LSAS (arXiv 2305.05200), table 2", "The paper trains 164 epochs", "Printed as a figure only"):
        assert part in text
    assert "shorten 0.1" in text and "optimizer.lr is 0.2" in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_terminal_table_fits_its_width(width: int) -> None:
    for filled in (made_up.full(), made_up.several()):
        text = printed(filled, width)
        assert max(map(len, text.splitlines())) <= width
        assert ("76.384" in text) == (filled.table.name == "sanet-1")


def test_hostile_titles_are_escaped_in_every_format() -> None:
    nasty = made_up.table(
        title=made_up.NASTY, rows={"cifar10": "a|b\nc", "stl10": "<b>"}, columns={"se": "[b]x", "lsas-se": "=y"}
    )
    filled = made_up.filled(nasty)
    text = printed(replace(filled, table=replace(nasty, title="[red]A|B[/red] \x1b[31m%_ [/]")), 80)
    assert text.startswith("[red]A|B[/red] \\x1b[31m%_ [/]\n") and "[b]x" in text and "a|b\\nc" in text
    text = document(filled).to_markdown()
    assert text.startswith(
        "## A\\|B &amp; C &lt;script&gt;alert(1)&lt;/script&gt; 100% of\\_it \\$x\\$ \\#1 {y} \\~z^2 "
    )
    assert "| a\\|b\\\\nc | published |" in text and "| &lt;b&gt; |" in text


def test_markdown_escapes_list_markers_in_notes() -> None:
    text = document(made_up.filled(made_up.table(notes=("- a note", "1. one")))).to_markdown()
    assert "- \\- a note" in text and "- 1\\. one" in text


def test_latex_is_balanced_and_escaped() -> None:
    text = as_latex(made_up.filled(made_up.table(title=made_up.NASTY, notes=("--dry_run [x] *",))))
    assert (
        r"\textbar{}B \& C \textless{}script\textgreater{}" in text
        and r"$\beta$" in text
        and r"of\_it \$x\$ \#1" in text
    )
    assert r"-{}-dry\_run {[}x{]} {*}" in text
    bare = re.sub(r"\\[\\{}$&%#_]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    for body in re.findall(r"\\begin{tabular}{([lr]+)}(.*?)\\end{tabular}", text, re.DOTALL):
        lines = [line for line in body[1].splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(body[0])}


def test_csv_reads_back_exactly() -> None:
    filled = made_up.full()
    first, *_, last = csv.DictReader(io.StringIO(csv_text(filled.to_records())))
    assert [float(value) for value in first["values"].split(";")] == made_up.SE
    assert float(first["mean"]) == filled.to_records()[0]["mean"]
    assert (first["n"], first["checked"], last["n"], last["published"], last["mean"]) == ("5", "yes", "0", "", "")
    compared = next(csv.DictReader(io.StringIO(csv_text(filled.comparison_records()))))
    assert float(compared["p_adjusted"]) == filled.comparisons[0].difference.p_adjusted


@pytest.mark.parametrize("text", FORMULAS)
def test_csv_escapes_spreadsheet_formulas(text: str) -> None:
    records = [{"name": text, "list": [text, "x"], "one": [text], "number": -1.5, "integer": -3, "nothing": None}]
    (read,) = csv.DictReader(io.StringIO(csv_text(records)))
    assert read["name"] == f"'{text}" == read["one"] and read["list"].startswith("'")
    assert (read["number"], read["integer"], read["nothing"]) == ("-1.5", "-3", "")
    assert all(value[:1] not in ("=", "+", "@") for value in read.values())


def test_records_are_json() -> None:
    for filled in (made_up.full(), made_up.several()):
        for records in (filled.to_records(), filled.comparison_records()):
            assert json.loads(json.dumps(records, allow_nan=False)) == records
