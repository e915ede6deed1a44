"""Published tables with runs beside them, as one page."""

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

    The page depends on the tables alone: the same ones give the same bytes.

    Args:
        filled: at least one.
        path: of the page; its folder is made if need be.
        title: of the page; None: that of the only table, or one for all.

    Returns:
        The path.

    Raises:
        InputError: no tables, or a folder that cannot be written.
    """
    if not filled:
        raise InputError("no tables to write; give at least one")
    filled = corrected_together(filled)
    sections = [
        {
            "anchor": f"table-{number}-{re.sub('[^a-z0-9]+', '-', one.table.name.lower()).strip('-')}",
            "document": document(one, wide=False),
            "charts": list(charts(one)),
        }
        for number, one in enumerate(filled, start=1)
    ]
    if title is None:
        title = filled[0].table.title if len(filled) == 1 else "Published tables and our runs"
    return write_page("tables.html", path, title=printable(title), sections=sections)


def charts(filled: FilledTable) -> Iterator[tuple[str, Figure]]:
    """For each row and metric that has runs a figure of the values, and one of the differences.

    Published values are left out where ours are not comparable with them; published differences are not.
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
            compared = {
                f"{table.columns[one.column]} − {table.columns[one.against]}": one
                for one in filled.comparisons
                if (one.row, one.metric) == (row, metric) and one.difference.n
            }
            if compared:
                differences = {label: one.difference for label, one in compared.items()}
                marks = {label: one.published for label, one in compared.items() if one.published is not None}
                figure = figures.intervals(differences, xlabel=metric.title, level=0, marks=marks)
                yield f"{title}: differences", figure


def filled_tables(runs: Iterable[Run]) -> list[FilledTable]:
    """The tables that come with regard and have such runs in a comparison, each with the runs of one folder.

    The teachers of these runs are looked for beside them. They fill no cell unless they are among the runs.
    """
    stores: dict[Path, list[StoredRun]] = {}
    for run in runs:
        folder = run.folder.resolve()
        if (stored_run := read_run(folder)) is not None:
            stores.setdefault(folder.parent, []).append(stored_run)
    tables = [load_table(name) for name in table_names()]
    filled = []
    for folder, stored in stores.items():
        beside = _teachers(folder, stored)
        filled += [fill(table, stored, beside=beside) for table in tables if _may_hold(table, stored)]
    return [one for one in filled if _compared(one)]


def _teachers(folder: Path, runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs in a folder that taught some of its runs, but for these themselves."""
    names = {folder_name(teacher) for run in runs for teacher in run.teachers} - {run.name for run in runs}
    return [run for name in sorted(names) if (run := read_run(folder / name)) is not None]


def _may_hold(table: PublishedTable, runs: Sequence[StoredRun]) -> bool:
    """Whether any of these runs has a network of the table; loading all recipes of all tables would take seconds."""
    networks = {_network(run.recipe) for run in runs}
    cells = [cell for cell in table.cells.values() if cell.recipe is not None]
    return any((cell.overrides.get("model.name") or _network_of(cell.recipe or "")) in networks for cell in cells)


@cache
def _network_of(recipe: str) -> str:
    return _network(yaml.safe_load(recipes.find(recipe).read_text(encoding="utf-8")))


def _network(recipe: Mapping[str, Any]) -> str:
    """The name of a network in a recipe as it is in its file."""
    return str((recipe.get("model") or {}).get("name", ModelRecipe.name))


def _compared(filled: FilledTable) -> bool:
    """Whether a cell of a comparison has runs."""
    columns = {column for pair in filled.table.comparisons for column in pair}
    return any(cell.runs for (_, column), cell in filled.cells.items() if column in columns)
