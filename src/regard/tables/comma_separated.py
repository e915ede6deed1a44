"""Filled tables as comma-separated values, for other programs: full precision, nothing in words that is a number."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from regard.tables.filled import FilledTable

COLUMNS = (
    *("table", "row", "column", "metric", "published", "checked", "statistic"),
    *("count", "median", "mean", "deviation", "low", "high", "seeds", "unfinished"),
    *("epochs", "full_epochs", "recipe", "digest", "versions", "data"),
)
COMPARISON_COLUMNS = (
    *("table", "row", "column", "against", "metric", "published", "count", "difference", "low", "high"),
    *("p_two_sided", "p_greater", "p_less", "verdict", "why"),
    *("p", "sides", "checked"),  # at the end, for readers that go by position
)


def csv_text(filled: FilledTable) -> str:
    """A line a cell and metric, with `COLUMNS`.

    Rows, columns and metrics are named by their keys. Numbers are as Python writes them, so that they are read back
    exactly; what is not known is empty. `seeds` is `0:91.2;1:91.05`, seed and value.
    """
    table = filled.table
    lines = []
    for place, cell in filled.cells.items():
        for index, metric in enumerate(table.metrics):
            said = cell.statistics(index)
            numbers = said and [said.count, said.median, said.mean, said.deviation, said.low, said.high]
            seeds = ";".join(f"{seed}:{value!r}" for seed, value in cell.values(index).items())
            lines.append(
                [
                    *(table.name, *place, metric.name, cell.cell.published[index], _yes(cell.cell.checked)),
                    *(table.statistic, *(numbers or [0, *[None] * 5]), seeds, ";".join(cell.unfinished)),
                    *(cell.epochs, cell.full_epochs, cell.cell.recipe, cell.recipe),
                    *(";".join(cell.versions), filled.data if cell.seeds else ""),
                ]
            )
    return _text(COLUMNS, lines)


def comparisons_csv(filled: FilledTable) -> str:
    """A line a comparison and metric, with `COMPARISON_COLUMNS`; see `csv_text`.

    `p` is the one that decided, and `sides` says whether it is one-sided, in the published direction, or two-sided;
    `checked` says whether both published numbers were compared with their source.
    """
    lines = []
    for one in filled.comparisons:
        ours = one.ours
        numbers: Sequence[Any] = [0, *[None] * 6]
        if ours is not None:
            numbers = [ours.count, ours.difference, ours.low, ours.high, ours.p_two_sided, ours.p_greater, ours.p_less]
        lines.append(
            [
                *(filled.table.name, one.row, one.column, one.against, one.metric.name, one.published, *numbers),
                *(one.verdict.words, one.verdict.why, one.verdict.p, one.verdict.sides, _yes(one.checked)),
            ]
        )
    return _text(COMPARISON_COLUMNS, lines)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _text(columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return file.getvalue()
