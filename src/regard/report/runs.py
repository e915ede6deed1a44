"""From folders to the page: which runs there are, which networks they are of, which published tables they fill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from regard import recipes
from regard.errors import InputError
from regard.report.found import find_runs
from regard.report.page import write_runs_html
from regard.report.seed_groups import seed_groups
from regard.store import StoredRun, read_run
from regard.tables.fill import fill
from regard.tables.filled import FilledTable
from regard.tables.matching import folder_name
from regard.tables.published import PublishedTable, load_table, table_names
from regard.training import ModelRecipe, Run


def report_runs(
    places: Sequence[str | Path],
    path: str | Path = "report.html",
    *,
    title: str = "Runs",
    names: Sequence[str] | None = None,
    reference: str | None = None,
    images: int = 12,
    folder: str | None = None,
) -> Path:
    """Writes one page of the runs at some places; those that differ only in their seeds are one network.

    Args:
        places: see `find_runs`.
        path: of the page.
        title: of the page.
        names: of the networks, in order; see `seed_groups`.
        reference: the name of the network that the others are compared with; None: see `write_runs_html`.
        images: test images on the sheet; see `write_html`.
        folder: where the data lie; None: where the recipes say.

    Returns:
        The path.

    Raises:
        InputError: no run at these places, or none with a finished epoch; names that do not fit the networks, no such
            reference, a place that cannot be written.
    """
    found = find_runs(places)
    if not found.rows:
        raise InputError(f"no run to report: {' '.join(found.left_out)}")
    groups, notes = seed_groups(found.rows, names)
    return write_runs_html(
        groups,
        path,
        title=title,
        images=images,
        reference=reference,
        left_out=[*found.left_out, *notes],
        folder=folder,
        tables=filled_tables(row.run for row in found.rows),
    )


def filled_tables(runs: Iterable[Run]) -> list[FilledTable]:
    """The tables that come with regard and have such runs in a comparison, each with the runs of one folder.

    The teachers of these runs are looked for beside them. They fill no cell unless they are among the runs.
    """
    stores: dict[Path, list[StoredRun]] = {}
    for run in runs:
        place = run.folder.resolve()
        if (found := read_run(place)) is not None:
            stores.setdefault(place.parent, []).append(found)
    tables = [load_table(name) for name in table_names()]
    filled = []
    for folder, stored in stores.items():
        beside = _teachers(folder, stored)
        filled += [fill(table, stored, beside=beside) for table in tables if _may_hold(table, stored)]
    return [one for one in filled if _compared(one)]


def _teachers(folder: Path, runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs in a folder that taught some of its runs, but for these themselves."""
    names = {folder_name(teacher) for run in runs for teacher in run.teachers} - {run.name for run in runs}
    found = [read_run(folder / name) for name in sorted(names)]
    return [run for run in found if run is not None]


def _may_hold(table: PublishedTable, runs: Sequence[StoredRun]) -> bool:
    """Whether any of these runs has a network of the table; loading all recipes of all tables would take seconds."""
    networks = {_network(run.recipe) for run in runs}
    return any(
        (cell.overrides.get("model.name") or _network_of(cell.recipe)) in networks
        for cell in table.cells.values()
        if cell.recipe is not None
    )


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
