"""The page of runs: what they came to, what may be said of it, and where they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from regard.data import Splits
from regard.errors import InputError
from regard.report import charts, prose
from regard.report.caveats import caveats, seeds
from regard.report.contrast import Group, reach, split
from regard.report.differences import differences, index_of
from regard.report.repeat import environments, repeats
from regard.report.sheet import make_sheet
from regard.report.summary import Summary
from regard.report.template import Network, write_page
from regard.training import load_data


def write_html(
    rows: Sequence[Summary],
    path: str | Path,
    *,
    title: str,
    images: int = 12,
    reference: int | str = 0,
    notes: Sequence[str] = (),
) -> Path:
    """Writes a report of runs as one self-contained HTML file: no script, no request, light and dark, screen and paper.

    Besides the run folders it reads the test images, for the sheet; where they are gone, the page says so and has
    none. The file is written aside and renamed.

    Args:
        rows: from `summarize`, at least one.
        path: of the file; its folder is made if need be.
        title: of the page.
        images: test images on the sheet, picked by chance; four more show where the networks differ most. 0: no sheet.
        reference: the row that the others are compared with, its place or its name.
        notes: what else the reader should know, a paragraph each, plain text.

    Returns:
        The path.

    Raises:
        InputError: no rows, no such reference, a weights file that cannot be read, a place that cannot be written.
    """
    if not rows:
        raise InputError("no rows given; a report needs at least one run")
    if images < 0:
        raise InputError(f"{images} images on the sheet; give 0 or more")
    base = index_of(rows, reference)
    found = differences(rows, base)
    splits, said = _data(rows[base]) if images else (None, [])
    sheet = make_sheet(rows, base, splits.test, images=images) if splits else None
    others = iter(range(1, len(rows)))
    styles = {row.name: 0 if i == base else next(others) for i, row in enumerate(rows)}
    groups = [Group(row.name, styles[row.name], tuple(line for line in found.lines if line.row is row)) for row in rows]
    resolved, unresolved = split(groups)
    return write_page(
        "page.html",
        path,
        title=title,
        intro=prose.intro(rows, rows[base], splits),
        notes=notes,
        rows=rows,
        reference=rows[base],
        styles=styles,
        found=found,
        resolved=resolved,
        unresolved=unresolved,
        reach=reach(groups),
        by_chance=prose.by_chance(len(found.lines)),
        seeds=seeds(rows),
        caveats=[*caveats(rows), *found.notes, *said, *(sheet.notes if sheet else ())],
        measured=prose.measured(rows),
        forests=charts.forests(rows, styles),
        curves=charts.curves(rows, styles),
        sheet=sheet if sheet and sheet.networks else None,
        shown=[Network(row.name, styles[row.name]) for row in sheet.networks] if sheet else [],
        rule=prose.sheet_rule(sheet) if sheet else "",
        repeats=repeats(rows),
        environments=environments(rows),
    )


def _data(row: Summary) -> tuple[Splits | None, list[str]]:
    """The images of a run, and what to say if they cannot be had."""
    try:
        return load_data(replace(row.recipe.data, download=False)), []
    except InputError as error:
        return None, [f"There is no sheet of test images: {error}."]
