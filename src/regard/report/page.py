"""The page of runs: what they came to, what may be said of it, and where they look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from regard.data import InMemoryDataset, Splits
from regard.errors import InputError, unknown
from regard.report import charts, prose
from regard.report.caveats import caveats, seeds
from regard.report.contrast import Group, reach, split
from regard.report.differences import differences, index_of
from regard.report.repeat import environments, repeats
from regard.report.runs_gallery import RunsGallery, runs_gallery
from regard.report.seed_differences import over_seeds
from regard.report.seed_groups import SeedGroup, each_alone, plainest
from regard.report.summary import Summary, with_cost
from regard.report.template import write_page
from regard.report.tested import folders, tested_on, titles
from regard.report.wording import few
from regard.tables import document
from regard.tables.filled import FilledTable
from regard.training import load_data

MOST_SHOWN = 12
"""Networks on the gallery of test images."""


def write_html(
    rows: Sequence[Summary],
    path: str | Path,
    *,
    title: str,
    images: int = 12,
    reference: int | str = 0,
    notes: Sequence[str] = (),
) -> Path:
    """Writes a report of runs, each a network of its own; see `write_runs_html`.

    Args:
        rows: from `summarize`, at least one.
        path: of the file; its folder is made if need be.
        title: of the page.
        images: random test images in the gallery; four more show where the networks differ most. 0: no gallery.
        reference: the row that the others are compared with, its place or its name.
        notes: what else the reader should know, a paragraph each, plain text.

    Returns:
        The path.

    Raises:
        InputError: no rows, no such reference, a weights file that cannot be read, a place that cannot be written.
    """
    if not rows:
        raise InputError("no rows given; a report needs at least one run")
    name = rows[index_of(rows, reference)].name
    return write_runs_html(each_alone(rows), path, title=title, images=images, reference=name, notes=notes)


def write_runs_html(
    groups: Sequence[SeedGroup],
    path: str | Path,
    *,
    title: str,
    images: int = 12,
    reference: str | None = None,
    notes: Sequence[str] = (),
    left_out: Sequence[str] = (),
    folder: str | None = None,
    tables: Sequence[FilledTable] = (),
) -> Path:
    """Writes a report of networks as one self-contained HTML file, like that of `write_html`.

    Networks that were tested on different images are in different parts of the page, and never compared. Besides the
    run folders it reads the test images, for the gallery; where they are gone, the page says so and has none. The file
    is written aside and renamed, and is the same byte by byte for the same runs.

    Args:
        groups: from `seed_groups`, at least one.
        path: of the file; its folder is made if need be.
        title: of the page.
        images: random test images in the gallery; four more show where the networks differ most. 0: no gallery.
        reference: the name of the network that the others of its part are compared with; in other parts, and if None,
            that is the plainest: without a teacher, without attention, the cheapest.
        notes: what else the reader should know, a paragraph each, plain text.
        left_out: sentences on runs that are not on the page.
        folder: where the data lie; None: where the recipes say.
        tables: published tables with these runs in them.

    Returns:
        The path.

    Raises:
        InputError: no networks, no such reference, a weights file that cannot be read, a place that cannot be written.
    """
    if not groups:
        raise InputError("no networks given; a report needs at least one run")
    if images < 0:
        raise InputError(f"{images} images on the gallery; give 0 or more")
    names = [group.name for group in groups]
    if reference is not None and reference not in names:
        raise unknown("reference", reference, names)
    together: dict[str, list[SeedGroup]] = {}
    for group in groups:
        together.setdefault(repr(tested_on(group.first)), []).append(group)
    own = sorted(together.values(), key=lambda part: -sum(len(group.rows) for group in part))
    headings = titles([part[0].first for part in own]) if len(own) > 1 else [""]
    parts = []
    for place, (part, heading) in enumerate(zip(own, headings, strict=True)):
        base = next((i for i, group in enumerate(part) if group.name == reference), plainest(part))
        mark = f"-{place + 1}" if len(own) > 1 else ""
        parts.append(_part(part, base, heading, mark, images=images, folder=folder))
    return write_page(
        "page.html",
        path,
        title=title,
        notes=notes,
        left_out=left_out,
        parts=parts,
        tables=[document(one, only_runs=True) for one in tables],
        repeats=repeats(groups),
        environments=environments(groups),
    )


def _part(
    groups: list[SeedGroup], base: int, heading: str, mark: str, *, images: int, folder: str | None
) -> dict[str, Any]:
    """What the template says of networks that were tested on the same images.

    Args:
        groups: the networks.
        base: the place of the reference.
        heading: of the part; empty if it is the only one.
        mark: what its ids end in.
        images: on the gallery.
        folder: where the data lie.
    """
    splits, said = _data(groups[base].first, folder) if images else (None, [])
    if splits is not None:
        groups = [_with_cost(group, splits.test.images.shape[2]) for group in groups]
    reference = groups[base]
    rows = [row for group in groups for row in group.rows]
    others = iter(range(1, len(groups)))
    styles = {group.name: 0 if group is reference else next(others) for group in groups}
    seed_lines = [over_seeds(group, reference) for group in groups]
    by_seed = [Group(group.name, styles[group.name], lines) for group, lines in zip(groups, seed_lines, strict=True)]
    paired = [group.first for group, one in zip(groups, by_seed, strict=True) if group is reference or not one.lines]
    network_of = {group.first.name: group.name for group in groups}
    found = differences(paired, paired.index(reference.first))
    by_image = [
        Group(row.name, styles[network_of[row.name]], tuple(line for line in found.lines if line.row is row))
        for row in paired
    ]
    gallery = _gallery(groups, base, splits, images, folder) if splits is not None else None
    several = any(len(group.rows) > 1 for group in groups)
    measured = prose.measured(rows)
    chart = charts.costs(groups, styles, mark)
    return {
        "heading": heading,
        "mark": mark,
        "intro": prose.intro(rows, reference.first, splits, len(groups)),
        "groups": groups,
        "reference": reference,
        "styles": styles,
        "several": several,
        "over_seeds": _contrasts(by_seed),
        "seed_rule": prose.seed_rule([line.difference.seeds for lines in seed_lines for line in lines]),
        "by_image": _contrasts(by_image),
        "image_reference": reference.first.name,
        "compared": any(group.lines for group in (*by_seed, *by_image)),
        "seeds": prose.over_seeds(groups) if several else seeds(rows),
        "by_chance": prose.by_chance(len(found.lines)),
        "caveats": [
            *caveats(rows, groups),
            *filter(None, [folders(rows)]),
            *found.notes,
            *said,
            *_costless(groups),
            *_unshown(groups, gallery),
            *(gallery.notes if gallery else ()),
        ],
        "measured": measured,
        "forests": charts.forests(groups, styles, mark),
        "curves": charts.curves(groups, styles, mark),
        "costs": [chart] if chart else [],
        "largest": max((group.parameters or 0 for group in groups if group.finished), default=0),
        "gallery": gallery.gallery if gallery and gallery.networks else None,
        "gallery_styles": [styles[network_of[row.name]] for row in gallery.networks] if gallery else [],
    }


def _contrasts(groups: Sequence[Group]) -> Mapping[str, Any] | None:
    """What the template says of differences; None if there are none."""
    if not any(group.lines for group in groups):
        return None
    resolved, unresolved = split(groups)
    return {"resolved": resolved, "unresolved": unresolved, "reach": reach(groups)}


def _gallery(groups: Sequence[SeedGroup], base: int, splits: Splits, images: int, folder: str | None) -> RunsGallery:
    """Of the first seed of each network, the reference's and those of the first others."""
    shown = _shown(groups, base)
    rows = [_moved(group.first, folder) for group in shown]
    return runs_gallery(rows, shown.index(groups[base]), splits.test, images=images)


def _shown(groups: Sequence[SeedGroup], base: int) -> list[SeedGroup]:
    room = MOST_SHOWN - 1
    others = [group for i, group in enumerate(groups) if i != base][:room]
    return [group for group in groups if group is groups[base] or group in others]


def _unshown(groups: Sequence[SeedGroup], gallery: RunsGallery | None) -> list[str]:
    """What to say of runs that are not on the gallery because there are too many."""
    if gallery is None:
        return []
    said = []
    if any(len(group.rows) > 1 for group in groups):
        said.append("The gallery of test images shows each network with its first seed.")
    if len(groups) > MOST_SHOWN:
        said.append(
            f"It has room for {MOST_SHOWN} networks: the reference and the first {MOST_SHOWN - 1} others of "
            f"{len(groups) - 1}."
        )
    return said


def _costless(groups: Sequence[SeedGroup]) -> list[str]:
    """What to say of networks whose operations are not known."""
    names = [group.name for group in groups if group.parameters is not None and group.multiply_adds is None]
    if not names:
        return []
    return [f"The multiply-adds of {few(names)} are not known without the test images, on whose size they depend."]


def _with_cost(group: SeedGroup, side: int) -> SeedGroup:
    return replace(group, rows=(with_cost(group.first, side), *group.rows[1:]))


def _moved(row: Summary, folder: str | None) -> Summary:
    """The row, with its data in another folder."""
    if folder is None:
        return row
    return replace(row, recipe=replace(row.recipe, data=replace(row.recipe.data, folder=folder)))


def _data(row: Summary, folder: str | None) -> tuple[Splits[InMemoryDataset] | None, list[str]]:
    """The images of a run, and what to say if they cannot be had."""
    try:
        splits = load_data(replace(_moved(row, folder).recipe.data, download=False))
    except InputError as error:
        return None, [f"There is no gallery of test images: {error}."]
    if not isinstance(splits.test, InMemoryDataset):
        return None, [f"There is no gallery of test images: those of {splits.test.name} are read while training."]
    return splits, []
