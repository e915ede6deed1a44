"""From folders to the page: which runs there are, which networks they are of, which published tables they fill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from regard.report.found import find_runs
from regard.report.page import write_runs_html
from regard.report.seed_groups import seed_groups
from regard.store import StoredRun
from regard.store.reading import Reader
from regard.tables.filled import FilledTable
from regard.tables.filling import fill
from regard.tables.published import load_table, table_names
from regard.training import Run


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
        reference: the name of the network that the others are compared with; the first if None.
        images: test images on the sheet; see `write_html`.
        folder: where the data lie; None: where the recipes say.

    Returns:
        The path.

    Raises:
        InputError: no run at these places, names that do not fit the networks, no such reference, a place that cannot
            be written.
    """
    found = find_runs(places)
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
    """The tables that come with regard and have such runs in a comparison, each with the runs of one folder."""
    reader = Reader()
    stores: dict[Path, list[StoredRun]] = {}
    for run in runs:
        place = run.folder.resolve()
        stores.setdefault(place.parent, []).append(_stored(reader, place))
    tables = [load_table(name) for name in table_names()]
    found = (fill(table, stored) for stored in stores.values() for table in tables)
    return [one for one in found if _compared(one)]


def _compared(filled: FilledTable) -> bool:
    """Whether a cell of a comparison has runs."""
    columns = {column for pair in filled.table.comparisons for column in pair}
    return any(cell.seeds for (_, column), cell in filled.cells.items() if column in columns)


def _stored(reader: Reader, folder: Path) -> StoredRun:
    recipe, metrics, environment = (
        path.read_bytes() if path.is_file() else None
        for path in (folder / name for name in ("recipe.yaml", "metrics.jsonl", "environment.json"))
    )
    weights = (folder / "last.safetensors").is_file()
    return reader.read(folder.name, recipe, metrics, environment, weights=weights).run
