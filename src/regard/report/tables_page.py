"""A page of published tables with our runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from regard import figures, recipes
from regard.errors import InputError
from regard.formatting import printable
from regard.report.template import write_page
from regard.store import StoredRun, read_run
from regard.tables import (
    FilledTable,
    PublishedTable,
    corrected_together,
    document,
    fill,
    load_table,
    table_names,
)
from regard.tables.matching import folder_name
from regard.training import ModelRecipe, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_tables_html(filled: Sequence[FilledTable], path: str | Path, title: str | None = None) -> Path:
    """Writes tables as one self-contained page: published values and ours, every seed, comparisons, and notes.

    Returns the path. The same tables give the same bytes.

    Args:
        filled: one or more tables.
        path: the page; its folder is created if needed.
        title: title of the page; None: the title of a single table, or a general one.

    Raises:
        InputError: no tables, or the path cannot be written.
    """
    if not filled:
        raise InputError("no tables to write; give at least one")
    filled = corrected_together(filled)
    sections = [
        {
            "anchor": f"table-{number}-{re.sub('[^a-z0-9]+', '-', table.table.name.lower()).strip('-')}",
            "document": document(table, wide=False),
            "charts": list(charts(table)),
        }
        for number, table in enumerate(filled, start=1)
    ]
    if title is None:
        title = filled[0].table.title if len(filled) == 1 else "Published tables and our runs"
    return write_page("tables.html", path, title=printable(title), sections=sections)


def charts(filled: FilledTable) -> Iterator[tuple[str, Figure]]:
    """A figure of the values, and one of the differences, for each row and metric with runs.

    Published values are left out if ours are not comparable; published differences are always drawn.
    """
    table = filled.table
    for row, title in table.rows.items():
        for index, metric in enumerate(table.metrics):
            cells = {name: filled.cells[row, key] for key, name in table.columns.items() if (row, key) in filled.cells}
            points = {name: list(cell.values(index).values()) for name, cell in cells.items()}
            if any(points.values()):
                numbers = {name: cell.cell.published[index] for name, cell in cells.items() if filled.faithful}
                marks = {name: value for name, value in numbers.items() if value is not None}
                estimates = {name: cell.estimate(index) for name, cell in cells.items()}
                yield title, figures.intervals(estimates, xlabel=metric.title, points=points, marks=marks)
            comparisons = {
                f"{table.columns[comparison.column]} − {table.columns[comparison.against]}": comparison
                for comparison in filled.comparisons
                if (comparison.row, comparison.metric) == (row, metric) and comparison.difference.n
            }
            if comparisons:
                differences = {label: comparison.difference for label, comparison in comparisons.items()}
                numbers = {label: comparison.published for label, comparison in comparisons.items()}
                marks = {label: value for label, value in numbers.items() if value is not None}
                figure = figures.intervals(differences, xlabel=metric.title, level=0, marks=marks)
                yield f"{title}: differences", figure


def filled_tables(runs: Iterable[Run]) -> list[FilledTable]:
    """The tables that come with regard and have a comparison with these runs, each with the runs of one folder.

    Teachers are also read from this folder; they fill no cell unless they are among the runs.
    """
    stores: dict[Path, list[StoredRun]] = {}
    for run in runs:
        folder = run.folder.resolve()
        if (stored_run := read_run(folder)) is not None:
            stores.setdefault(folder.parent, []).append(stored_run)
    tables = [load_table(name) for name in table_names()]
    filled = []
    for folder, stored in stores.items():
        teachers = _teachers(folder, stored)
        filled += [fill(table, stored, beside=teachers) for table in tables if _may_match(table, stored)]
    return [table for table in filled if _has_comparison(table)]


def _teachers(folder: Path, runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The teachers of the runs that are in the same folder, without the runs themselves."""
    names = {folder_name(teacher) for run in runs for teacher in run.teachers} - {run.name for run in runs}
    return [run for name in sorted(names) if (run := read_run(folder / name)) is not None]


def _may_match(table: PublishedTable, runs: Sequence[StoredRun]) -> bool:
    """Whether any run has a network of the table; a quick check, since loading all recipes would take seconds."""
    networks = {_network(run.recipe) for run in runs}
    cells = [cell for cell in table.cells.values() if cell.recipe is not None]
    return any((cell.overrides.get("model.name") or _file_network(cell.recipe or "")) in networks for cell in cells)


@cache
def _file_network(recipe: str) -> str:
    return _network(yaml.safe_load(recipes.find(recipe).read_text(encoding="utf-8")))


def _network(recipe: Mapping[str, Any]) -> str:
    """The name of the network in a recipe as read from its file."""
    return str((recipe.get("model") or {}).get("name", ModelRecipe.name))


def _has_comparison(filled: FilledTable) -> bool:
    """Whether a compared cell has runs."""
    columns = {column for pair in filled.table.comparisons for column in pair}
    return any(cell.runs for (_, column), cell in filled.cells.items() if column in columns)
