"""A filled table as a document: its facts, grids and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult

from regard.formatting import NONE, counted, difference, interval, number, p_value, signed
from regard.tables.filled import Comparison, FilledCell, FilledTable
from regard.tables.grid import Document, Grid

UNCHECKED = "†"
_DAGGER = "published number not compared with the source, or a difference with such a number"
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
    """A cell in one metric; the title is of its row, its column and, if there are several, its metric."""

    cell: FilledCell
    index: int
    title: str


def document(filled: FilledTable, *, wide: bool = True, detail: bool = True, only_runs: bool = False) -> Document:
    """A filled table, to be written in any format.

    Args:
        filled: the table.
        wide: whether the first grid has the columns of the table, or one row for each of its cells.
        detail: whether there are grids of every seed and of where the numbers come from.
        only_runs: whether cells and comparisons without runs are left out.
    """
    entries = [one for one in _entries(filled) if one.cell.values(one.index) or not only_runs]
    comparisons = [one for one in filled.comparisons if one.difference.n or not only_runs]
    grids = [_wide(filled, entries) if wide and not only_runs else _long(filled, entries)]
    if comparisons:
        grids.append(_comparisons(filled, comparisons))
    if detail and filled.finished:
        grids += [_seeds(entries), _sources(filled)]
    statistics = _METHOD if any(one.difference.n for one in filled.comparisons) else ""
    return Document(filled.table.name, filled.table.title, _facts(filled), tuple(grids), _notes(filled), statistics)


class TerminalTable:
    """A filled table to print with rich: its own columns where they fit, else one row for each cell."""

    def __init__(self, filled: FilledTable) -> None:
        self.filled = filled

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = document(self.filled)
        width = console.measure(whole.grids[0], options=options.update(width=10_000)).maximum
        yield whole if width <= options.max_width else document(self.filled, wide=False)


def _entries(filled: FilledTable) -> Iterator[_Entry]:
    table = filled.table
    for row, title in table.rows.items():
        for index, metric in enumerate(table.metrics):
            for column, name in table.columns.items():
                if (row, column) in filled.cells:
                    several = metric.title if len(table.metrics) > 1 else ""
                    yield _Entry(filled.cells[row, column], index, ", ".join(filter(None, (title, name, several))))


def _wide(filled: FilledTable, entries: list[_Entry]) -> Grid:
    """Two rows for each row and metric, published and ours; one for a metric that runs do not measure."""
    columns, metrics = filled.table.columns, filled.table.metrics
    at = {(one.cell.cell.position, one.index): one for one in entries}
    rows = []
    for key, title in filled.table.rows.items():
        for index, metric in enumerate(metrics):
            cells = [at.get(((key, column), index)) for column in columns]
            label = f"{metric.title}, " if len(metrics) > 1 else ""
            published = (_published(filled, one) if one else "" for one in cells)
            rows.append(("" if index else title, f"{label}published", *published))
            if metric.field is not None:
                rows.append(("", f"{label}ours", *(_ours(filled, one) if one else "" for one in cells)))
    return Grid("", ("", "", *columns.values()), "ll" + "r" * len(columns), tuple(rows))


def _long(filled: FilledTable, entries: list[_Entry]) -> Grid:
    rows = tuple((one.title, _published(filled, one), _ours(filled, one)) for one in entries)
    return Grid("", ("cell", "published", "ours"), "lrr", rows)


def _published(filled: FilledTable, entry: _Entry) -> str:
    value = entry.cell.cell.published[entry.index]
    if value is None:
        return NONE
    return f"{value:.{_decimals(filled, entry.index)}f}{'' if entry.cell.cell.checked else UNCHECKED}"


def _decimals(filled: FilledTable, index: int) -> int:
    """With how many the numbers of a metric were printed: as many as the longest has."""
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
    for one in comparisons:
        metric = [one.metric.title] if len(table.metrics) > 1 else []
        where = ", ".join([table.rows[one.row], *metric])
        mark = UNCHECKED if one.published is not None and not one.checked else ""
        rows.append(
            (
                f"{where}: {table.columns[one.column]} − {table.columns[one.against]}",
                signed(one.published, 2) + mark,
                difference(one.difference, lambda value: signed(value, 2)),
                p_value(one.difference.p_adjusted),
                one.verdict,
            )
        )
    headings = ("comparison", "published", "ours (95% interval)", "adjusted p", "verdict")
    return Grid("Comparisons", headings, "lrrrl", tuple(rows))


def _seeds(entries: list[_Entry]) -> Grid:
    rows = []
    for one in entries:
        if values := one.cell.values(one.index):
            mean = one.cell.estimate(one.index)
            ends = interval(mean.low, mean.high, lambda value: number(value, 2))
            by_seed = ", ".join(f"{seed}: {value:.2f}" for seed, value in values.items())
            rows.append((one.title, number(mean.value, 2), ends, by_seed))
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
        teachers = Counter(one.teacher for one in cell.runs if one.teacher)
        shared = ", ".join(f"{count} ({name})" for name, count in sorted(teachers.items()) if count > 1)
        if shared:
            notes.append((f"{titles[position]}, runs with one teacher, which are not independent", shared))
    if filled.unfinished:
        notes.append(("not finished", ", ".join(filled.unfinished)))
    notes += [
        (f"not shown, {counted(n, 'finished run')}", f"{data} ({how})") for (data, how), n in filled.others.items()
    ]
    notes += [(f"not counted, {name}", reason) for name, reason in filled.excluded.items()]
    return tuple(notes)
