"""Turns a filled table into a document of facts, grids and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult

from regard.formatting import NONE, counted, difference, interval, number, p_value, signed
from regard.tables.filled import Comparison, FilledCell, FilledTable
from regard.tables.grid import Document, Grid

UNCHECKED = "†"
_DAGGER = "published number not checked against the source, or a difference of an unchecked number"
_STATISTICS = {"mean": "mean", "median": "median", "single": "single value"}
_METHOD = (
    "Differences are means over the seeds that both columns have, with 95% intervals and p values of the paired t test "
    "over seeds, from 3 seeds on; p is adjusted for all comparisons shown together (Holm). Significant: adjusted p "
    "below 0.05. Compatible: the published difference lies in the 95% prediction interval of ours for as many runs as "
    "were published, or for one run where the source does not say. Preliminary: with a shortened schedule or other "
    "data."
)


@dataclass(frozen=True)
class _Entry:
    """One metric of a cell, with a title from its row, its column and, if there are several, the metric."""

    cell: FilledCell
    index: int
    title: str


def document(filled: FilledTable, *, wide: bool = True, detail: bool = True, only_runs: bool = False) -> Document:
    """A filled table as a document.

    Args:
        filled: the table.
        wide: whether the first grid has the columns of the table; else it has one row per cell.
        detail: whether to add grids of all seeds and recipes.
        only_runs: whether to leave out cells and comparisons without runs.
    """
    entries = [entry for entry in _entries(filled) if entry.cell.values(entry.index) or not only_runs]
    comparisons = [comparison for comparison in filled.comparisons if comparison.difference.n or not only_runs]
    grids = [_wide(filled, entries) if wide and not only_runs else _long(filled, entries)]
    if comparisons:
        grids.append(_comparisons(filled, comparisons))
    if detail and filled.finished:
        grids += [_seeds(entries), _sources(filled)]
    statistics = _METHOD if any(comparison.difference.n for comparison in filled.comparisons) else ""
    return Document(filled.table.name, filled.table.title, _facts(filled), tuple(grids), _notes(filled), statistics)


class TerminalTable:
    """A filled table to print with rich: with its own columns if they fit, else with one row per cell."""

    def __init__(self, filled: FilledTable) -> None:
        self.filled = filled

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = document(self.filled)
        width = console.measure(wide.grids[0], options=options.update(width=10_000)).maximum
        yield wide if width <= options.max_width else document(self.filled, wide=False)


def _entries(filled: FilledTable) -> Iterator[_Entry]:
    table = filled.table
    for row, title in table.rows.items():
        for index, metric in enumerate(table.metrics):
            for column, name in table.columns.items():
                if (row, column) in filled.cells:
                    label = metric.title if len(table.metrics) > 1 else ""
                    yield _Entry(filled.cells[row, column], index, ", ".join(filter(None, (title, name, label))))


def _wide(filled: FilledTable, entries: list[_Entry]) -> Grid:
    """Two grid rows per table row and metric, published and ours; only published for metrics without a run field."""
    columns, metrics = filled.table.columns, filled.table.metrics
    by_position = {(entry.cell.cell.position, entry.index): entry for entry in entries}
    rows = []
    for key, title in filled.table.rows.items():
        for index, metric in enumerate(metrics):
            row_entries = [by_position.get(((key, column), index)) for column in columns]
            label = f"{metric.title}, " if len(metrics) > 1 else ""
            published = (_published(filled, entry) if entry else "" for entry in row_entries)
            rows.append(("" if index else title, f"{label}published", *published))
            if metric.field is not None:
                rows.append(("", f"{label}ours", *(_ours(filled, entry) if entry else "" for entry in row_entries)))
    return Grid("", ("", "", *columns.values()), "ll" + "r" * len(columns), tuple(rows))


def _long(filled: FilledTable, entries: list[_Entry]) -> Grid:
    rows = tuple((entry.title, _published(filled, entry), _ours(filled, entry)) for entry in entries)
    return Grid("", ("cell", "published", "ours"), "lrr", rows)


def _published(filled: FilledTable, entry: _Entry) -> str:
    value = entry.cell.cell.published[entry.index]
    if value is None:
        return NONE
    return f"{value:.{_decimals(filled, entry.index)}f}{'' if entry.cell.cell.checked else UNCHECKED}"


def _decimals(filled: FilledTable, index: int) -> int:
    """The largest number of decimals among the published numbers of a metric."""
    numbers = [value for cell in filled.table.cells.values() if (value := cell.published[index]) is not None]
    return max((len(f"{value:.6f}".rstrip("0").partition(".")[2]) for value in numbers), default=2)


def _ours(filled: FilledTable, entry: _Entry) -> str:
    record = filled.record(entry.cell, entry.index)
    if not record["n"]:
        return "no recipe" if entry.cell.cell.recipe is None else "not measured" if entry.cell.runs else NONE
    middle = record["median" if filled.table.statistic == "median" else "mean"]
    deviation = "" if record["deviation"] is None else f" ± {record['deviation']:.2f}"
    return f"{middle:.2f}{deviation} ({record['n']})"


def _comparisons(filled: FilledTable, comparisons: list[Comparison]) -> Grid:
    table, rows = filled.table, []
    for comparison in comparisons:
        metric = [comparison.metric.title] if len(table.metrics) > 1 else []
        label = ", ".join([table.rows[comparison.row], *metric])
        mark = UNCHECKED if comparison.published is not None and not comparison.checked else ""
        rows.append(
            (
                f"{label}: {table.columns[comparison.column]} − {table.columns[comparison.against]}",
                signed(comparison.published, 2) + mark,
                difference(comparison.difference, lambda value: signed(value, 2)),
                p_value(comparison.difference.p_adjusted),
                comparison.verdict,
            )
        )
    headings = ("comparison", "published", "ours (95% interval)", "adjusted p", "verdict")
    return Grid("Comparisons", headings, "lrrrl", tuple(rows))


def _seeds(entries: list[_Entry]) -> Grid:
    rows = []
    for entry in entries:
        if values := entry.cell.values(entry.index):
            mean = entry.cell.estimate(entry.index)
            ends = interval(mean.low, mean.high, lambda value: number(value, 2))
            by_seed = ", ".join(f"{seed}: {value:.2f}" for seed, value in values.items())
            rows.append((entry.title, number(mean.value, 2), ends, by_seed))
    return Grid("Seeds", ("cell", "mean", "95% interval", "values by seed"), "lrrl", tuple(rows))


def _sources(filled: FilledTable) -> Grid:
    rows = []
    for (row, column), cell in filled.cells.items():
        if cell.runs:
            epochs = f"{cell.epochs}" if cell.epochs == cell.full_epochs else f"{cell.epochs} of {cell.full_epochs}"
            title = f"{filled.table.rows[row]}, {filled.table.columns[column]}"
            rows.append((title, epochs, cell.cell.recipe or "", cell.digest or "", ", ".join(cell.versions)))
    return Grid("Recipes", ("cell", "epochs", "recipe", "digest", "regard"), "lrlll", tuple(rows))


def _facts(filled: FilledTable) -> tuple[tuple[str, str], ...]:
    table = filled.table
    measured = [metric for metric in table.metrics if not metric.is_cost]
    directions = {metric.higher_is_better for metric in measured}
    better = f" ({'higher' if directions == {True} else 'lower'} is better)" if len(directions) == 1 else ""
    costs = [metric.title for metric in table.metrics if metric.is_cost]
    runs = "number of runs not stated" if table.runs is None else counted(table.runs, "run")
    facts = [
        ("source", table.source),
        ("numbers", "; ".join(["; ".join(metric.title for metric in measured) + better, *costs])),
        ("published", f"{_STATISTICS[table.statistic]}, {runs}" if table.printed else ""),
        ("runs", ", ".join(filter(None, (f"{len(filled.finished)} finished", filled.data)))),
    ]
    if filled.finished:
        middle = "median" if table.statistic == "median" else "mean"
        facts.append(("ours", f"after the last epoch, {middle} ± standard deviation over seeds (number of seeds)"))
    if not filled.faithful and filled.overrides is not None:
        fields = ", ".join(f"{name} {value}" for name, value in sorted(filled.overrides.fields.items()))
        if any(cell.runs and cell.epochs != cell.full_epochs for cell in filled.cells.values()):
            fraction = f"schedule {filled.overrides.shorten:.4g} of the published epochs"
            fields = ", ".join(filter(None, (fraction, fields)))
        facts.append(("overrides, so that values are not comparable with published ones", fields))
    return tuple((label, text) for label, text in facts if text)


def _notes(filled: FilledTable) -> tuple[tuple[str, str], ...]:
    table = filled.table
    titles = {position: f"{table.rows[position[0]]}, {table.columns[position[1]]}" for position in filled.cells}
    notes = [("", note) for note in table.notes]
    notes += [(titles[position], cell.cell.note) for position, cell in filled.cells.items() if cell.cell.note]
    if any(not cell.checked for cell in table.cells.values()):
        notes.append((UNCHECKED, _DAGGER))
    for position, cell in filled.cells.items():
        teachers = Counter(run.teacher for run in cell.runs if run.teacher)
        shared = ", ".join(f"{count} ({name})" for name, count in sorted(teachers.items()) if count > 1)
        if shared:
            notes.append((f"{titles[position]}, runs with the same teacher, which are not independent", shared))
    if filled.unfinished:
        notes.append(("not finished", ", ".join(filled.unfinished)))
    notes += [
        (f"not shown, {counted(n, 'finished run')}", f"{data} ({options})")
        for (data, options), n in filled.others.items()
    ]
    notes += [(f"not counted, {name}", reason) for name, reason in filled.excluded.items()]
    return tuple(notes)
