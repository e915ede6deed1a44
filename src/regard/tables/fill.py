"""Puts runs into the cells of a table."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

from regard.store import StoredRun
from regard.tables.filled import FilledCell, FilledTable, SeedRun
from regard.tables.matching import Match, Matcher, digest, folder_name
from regard.tables.overrides import Overrides, shortened_epochs
from regard.tables.published import PublishedTable


def fill(
    table: PublishedTable,
    runs: Sequence[StoredRun],
    overrides: Overrides | None = None,
    beside: Sequence[StoredRun] = (),
) -> FilledTable:
    """Fills a table with runs that have the same overrides.

    A run belongs to a cell if it has the recipe of the cell, whatever the name of its folder, and its teacher is
    finished, in the same store, and has the recipe and the overrides of the cell's teacher. If several runs have one
    seed, the first by name counts.

    Args:
        table: the published table.
        runs: runs of one store.
        overrides: overrides of the runs; None: those of the runs with the longest schedules, and among these the most
            frequent.
        beside: other runs of the store, which may be teachers but fill no cell.

    Raises:
        InputError: a recipe of the table does not exist or is not valid.
    """
    matcher = Matcher(table)
    matches = {run.name: matcher.matches(run) for run in runs}
    if overrides is None:
        overrides = _fullest(match for run_matches in matches.values() for match in run_matches)
    used = overrides or Overrides()

    @cache
    def expected(position: tuple[str, str]) -> dict[str, Any]:
        return matcher.overrides(table.cells[position], used)

    def fits(match: Match) -> bool:
        same_length = match.epochs == shortened_epochs(match.full_epochs, used.shorten)
        return same_length and match.overrides == expected(match.cell.position)

    fitting = {name: list(filter(fits, run_matches)) for name, run_matches in matches.items()}
    fitting_in_store = {run.name: list(filter(fits, matcher.matches(run))) for run in beside} | fitting
    stored = {run.name: run for run in (*beside, *runs)}
    by_cell: dict[tuple[str, str], list[Match]] = defaultdict(list)
    waiting: dict[tuple[str, str], list[str]] = defaultdict(list)
    excluded: dict[str, str] = {}
    for run in sorted(runs, key=lambda run: run.name):
        for match in fitting[run.name]:
            if reason := _other_teacher(match, fitting_in_store, matcher):
                excluded.setdefault(run.name, reason)
            elif reason := _unfinished_teacher(match, stored):
                excluded.setdefault(run.name, reason)
                waiting[match.cell.position].append(run.name)
            else:
                by_cell[match.cell.position].append(match)
        if not matches[run.name] and (reason := matcher.difference(run)):
            excluded[run.name] = reason
    cells = {}
    for position, cell in table.cells.items():
        recipe = matcher.recipes.get(position)
        if recipe is None:
            cells[position] = FilledCell(cell)
            continue
        seeds: dict[int, Match] = {}
        for match in by_cell[position]:
            if match.run.finished:
                first = seeds.setdefault(match.run.seed, match)
                if first is not match:
                    excluded[match.run.name] = f"seed {match.run.seed} is already counted ({first.run.name})"
        changed = used.apply(recipe)
        cells[position] = FilledCell(
            cell,
            runs=tuple(_seed_run(table, seeds[seed]) for seed in sorted(seeds)),
            epochs=changed.schedule.epochs,
            full_epochs=recipe.schedule.epochs,
            digest=digest(changed),
            unfinished=tuple(match.run.name for match in by_cell[position] if not match.run.finished),
            waiting=tuple(waiting[position]),
        )
    counted = {name for cell in cells.values() for name in (*cell.unfinished, *(run.run for run in cell.runs))}
    return FilledTable(
        table=table,
        overrides=overrides,
        data=next((_data(matcher, cell_matches[0]) for cell_matches in by_cell.values() if cell_matches), ""),
        cells=cells,
        others=_others(matches, fitting, matcher),
        excluded={name: reason for name, reason in sorted(excluded.items()) if name not in counted},
    )


def _seed_run(table: PublishedTable, match: Match) -> SeedRun:
    row, environment = match.run.row, match.run.environment
    version = str(environment.get("regard") or "")
    if version and environment.get("commit"):
        version += f"+{str(environment['commit'])[:7]}"
    teacher = "" if match.cell.teacher is None else folder_name(match.teachers[0])
    return SeedRun(match.run.seed, match.run.name, tuple(m.of(row) for m in table.metrics), version, teacher)


def _other_teacher(match: Match, matches: Mapping[str, Sequence[Match]], matcher: Matcher) -> str:
    """Why the teacher of a run is not its cell's, empty if it is; `matches` are those of all runs in the store."""
    if match.cell.teacher is None:
        expected, teachers = matcher.teachers(match.cell), match.teachers
        if [folder_name(name) for name in expected] == [folder_name(name) for name in teachers]:
            return ""
        texts = [" and ".join(names) or "none" for names in (teachers, expected)]
        return f"its teacher is {texts[0]}, the recipe has {texts[1]}"
    if len(match.teachers) != 1:
        return f"it has {len(match.teachers)} teachers, the recipe has one"
    name = folder_name(match.teachers[0])
    if name not in matches:
        return f"its teacher {name} is not in the store, so its recipe is not known"
    if (match.cell.row, match.cell.teacher) not in [teacher.cell.position for teacher in matches[name]]:
        return f"its teacher {name} does not have the recipe and the overrides of the cell's teacher"
    return ""


def _unfinished_teacher(match: Match, stored: Mapping[str, StoredRun]) -> str:
    """Why the teacher of a run is not finished; empty if it is, or if it is not a run of the store."""
    if match.cell.teacher is None:
        return ""
    name = folder_name(match.teachers[0])
    teacher = stored[name]
    if teacher.finished:
        return ""
    short = teacher.epochs < teacher.epochs_planned
    reason = f"it has {teacher.epochs} of {teacher.epochs_planned} epochs" if short else "it has no weights"
    return f"its teacher {name} is not finished: {reason}"


def _fullest(matches: Iterable[Match]) -> Overrides | None:
    """The overrides with the longest schedules, and among these with the most runs."""
    groups: dict[str, list[Match]] = defaultdict(list)
    for match in matches:
        groups[match.key].append(match)
    ranked: list[tuple[tuple[float, int, str], Overrides]] = []
    for key, group in sorted(groups.items()):
        for fraction in sorted({match.epochs / match.full_epochs for match in group}):
            fitting = [match for match in group if match.epochs == shortened_epochs(match.full_epochs, fraction)]
            longest = max(match.epochs / match.full_epochs for match in fitting)
            ranked.append(((longest, len(fitting), key), Overrides(fraction, dict(group[0].overrides))))
    return max(ranked, key=itemgetter(0))[1] if ranked else None


def _data(matcher: Matcher, match: Match) -> str:
    """The data of a run: name, number of training images, and other overridden fields."""
    fields = matcher.signature(match.run).overridable
    parts = [str(fields["data.name"])]
    if fields["data.train_images"] is not None:
        parts.append(f"{fields['data.train_images']:,} training images")
    parts += [
        f"{name.removeprefix('data.')} {value}"
        for name, value in match.overrides.items()
        if name not in ("data.name", "data.train_images")
    ]
    return ", ".join(parts)


def _others(
    matches: Mapping[str, Sequence[Match]], fitting: Mapping[str, Sequence[Match]], matcher: Matcher
) -> dict[tuple[str, str], int]:
    """Numbers of finished runs with other overrides, by (data, options that select them)."""
    firsts = [run_matches[0] for name, run_matches in matches.items() if run_matches and not fitting[name]]
    counts = Counter((_data(matcher, match), shlex.join(_options(match))) for match in firsts if match.run.finished)
    return dict(sorted(counts.items()))


def _options(match: Match) -> list[str]:
    """The options that select runs with the overrides of a match."""
    fraction = match.epochs / match.full_epochs
    options = ["--shorten", f"{fraction:.4g}"] if fraction < 1 or not match.overrides else []
    for name, value in match.overrides.items():
        options += [f"--{name}", "null" if value is None else str(value)]
    return options
