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
    """A table with the runs that belong to it, all with the same overrides.

    A run belongs to a cell if its recipe is that of the cell, whatever its folder is called, and so is the recipe of
    its teacher, which has to be finished, and in the same store with the same overrides. Of several runs of one seed
    the first by name counts.

    Args:
        table: as published.
        runs: of one store.
        overrides: of the runs; None: of those there are, the ones with the longest schedules, and of these the ones
            with the most runs.
        beside: others of the store, which fill no cell; they may have taught the runs.

    Raises:
        InputError: a recipe of the table is not there, or not valid.
    """
    matcher = Matcher(table)
    matches = {run.name: matcher.matches(run) for run in runs}
    if overrides is None:
        overrides = _fullest(match for some in matches.values() for match in some)
    used = overrides or Overrides()

    @cache
    def wanted(position: tuple[str, str]) -> dict[str, Any]:
        return matcher.overrides(table.cells[position], used)

    def fits(match: Match) -> bool:
        shortened = match.epochs == shortened_epochs(match.full_epochs, used.shorten)
        return shortened and match.overrides == wanted(match.cell.position)

    fitting = {name: list(filter(fits, some)) for name, some in matches.items()}
    known = {run.name: list(filter(fits, matcher.matches(run))) for run in beside} | fitting
    stored = {run.name: run for run in (*beside, *runs)}
    by_cell: dict[tuple[str, str], list[Match]] = defaultdict(list)
    waiting: dict[tuple[str, str], list[str]] = defaultdict(list)
    excluded: dict[str, str] = {}
    for run in sorted(runs, key=lambda run: run.name):
        for match in fitting[run.name]:
            if reason := _other_teacher(match, known, matcher):
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
                    excluded[match.run.name] = f"seed {match.run.seed} is there already, {first.run.name}"
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
    counted = {name for cell in cells.values() for name in (*cell.unfinished, *(one.run for one in cell.runs))}
    return FilledTable(
        table=table,
        overrides=overrides,
        data=next((_data(matcher, some[0]) for some in by_cell.values() if some), ""),
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


def _other_teacher(match: Match, known: Mapping[str, Sequence[Match]], matcher: Matcher) -> str:
    """Why the teacher of a run is not the one that its cell names; empty if it is.

    Args:
        match: the run.
        known: of all runs of the store, the cells of the table that they belong to with the overrides.
        matcher: of the table.
    """
    if match.cell.teacher is None:
        expected, teachers = matcher.teachers(match.cell), match.teachers
        if [folder_name(name) for name in expected] == [folder_name(name) for name in teachers]:
            return ""
        names = [" and ".join(some) or "nobody" for some in (teachers, expected)]
        return f"its teacher is {names[0]}, the recipe says {names[1]}"
    if len(match.teachers) != 1:
        return f"it has {len(match.teachers)} teachers, the recipe has one"
    name = folder_name(match.teachers[0])
    if name not in known:
        return f"its teacher {name} is not in the store, so that nothing shows what it learned from"
    if (match.cell.row, match.cell.teacher) not in [other.cell.position for other in known[name]]:
        return f"its teacher {name} does not have the recipe and the overrides of the cell's teacher"
    return ""


def _unfinished_teacher(match: Match, stored: Mapping[str, StoredRun]) -> str:
    """Why the teacher of a run, of this store, cannot have taught it all there is; empty if it can."""
    if match.cell.teacher is None:
        return ""
    name = folder_name(match.teachers[0])
    teacher = stored[name]
    if teacher.finished:
        return ""
    short = teacher.epochs < teacher.epochs_planned
    lacking = f"it has {teacher.epochs} of {teacher.epochs_planned} epochs" if short else "it has no weights"
    return f"its teacher {name} is not finished: {lacking}"


def _fullest(matches: Iterable[Match]) -> Overrides | None:
    """The overrides with the longest schedules, and the most runs of those."""
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
    """The data of a run: name, number of training images, and other fields that are overridden."""
    fields = matcher.signature(match.run).overridable
    parts = [str(fields["data.name"])]
    if fields["data.train_images"] is not None:
        parts.append(f"{fields['data.train_images']:,} training images")
    named = ("data.name", "data.train_images")
    parts += [f"{name.removeprefix('data.')} {value}" for name, value in match.overrides.items() if name not in named]
    return ", ".join(parts)


def _others(
    matches: Mapping[str, Sequence[Match]], fitting: Mapping[str, Sequence[Match]], matcher: Matcher
) -> dict[tuple[str, str], int]:
    """Finished runs with other overrides, by their data and the options that select them."""
    others = [some[0] for name, some in matches.items() if some and not fitting[name] and some[0].run.finished]
    counts = Counter((_data(matcher, match), shlex.join(_options(match))) for match in others)
    return dict(sorted(counts.items()))


def _options(match: Match) -> list[str]:
    """The options that select runs with the overrides of this one."""
    fraction = match.epochs / match.full_epochs
    options = ["--shorten", f"{fraction:.4g}"] if fraction < 1 or not match.overrides else []
    for name, value in match.overrides.items():
        options += [f"--{name}", "null" if value is None else str(value)]
    return options
