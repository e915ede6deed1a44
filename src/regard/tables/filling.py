"""Puts runs into the cells of a table."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from regard.store import StoredRun
from regard.tables.filled import FilledCell, FilledTable, SeedValue
from regard.tables.matching import Match, Matcher, digest, folder_name
from regard.tables.published import PublishedTable
from regard.tables.setting import Setting, epochs_of
from regard.tables.words import counted


def fill(
    table: PublishedTable,
    runs: Sequence[StoredRun],
    setting: Setting | None = None,
    beside: Sequence[StoredRun] = (),
) -> FilledTable:
    """A table with the runs that belong to it, all in one setting.

    A run belongs to a cell if its recipe is that of the cell, whatever its folder is called, and so is the recipe of
    its teacher, which has to be finished, and in the same store and setting. Of several runs of one seed the first by
    name counts.

    Args:
        table: as published.
        runs: of one store.
        setting: of the runs to show; None: of those there are, the one with the longest schedules, and of these the one
            with the most runs.
        beside: others of the store, which fill no cell; they may have taught the runs.

    Raises:
        InputError: a recipe of the table is not there, or not valid.
    """
    matcher = Matcher(table)
    matches = {run.name: matcher.matches(run) for run in runs}
    if setting is None:
        setting = _fullest(match for found in matches.values() for match in found)
    shown = setting or Setting()
    ours = {name: [match for match in found if _within(match, shown, matcher)] for name, found in matches.items()}
    known = {run.name: [one for one in matcher.matches(run) if _within(one, shown, matcher)] for run in beside} | ours
    stored = {run.name: run for run in (*beside, *runs)}
    found: dict[tuple[str, str], list[Match]] = defaultdict(list)
    waiting: dict[tuple[str, str], list[str]] = defaultdict(list)
    left_out: dict[str, str] = {}
    for run in sorted(runs, key=lambda run: run.name):
        for match in ours[run.name]:
            if reason := _taught_otherwise(match, known, matcher):
                left_out.setdefault(run.name, reason)
            elif reason := _unfinished_teacher(match, stored):
                left_out.setdefault(run.name, reason)
                waiting[match.cell.row, match.cell.column].append(run.name)
            else:
                found[match.cell.row, match.cell.column].append(match)
        if not matches[run.name] and (reason := matcher.difference(run)):
            left_out[run.name] = reason
    cells = {}
    for place, cell in table.cells.items():
        recipe = matcher.recipes.get(place)
        if recipe is None:
            cells[place] = FilledCell(cell)
            continue
        here = found.get(place, [])
        seeds: dict[int, Match] = {}
        for match in here:
            if not match.run.finished:
                continue
            first = seeds.setdefault(match.run.seed, match)
            if first is not match:
                left_out[match.run.name] = f"seed {match.run.seed} is there already, {first.run.name}"
        there = shown.of(recipe)
        cells[place] = FilledCell(
            cell,
            seeds=tuple(_value(table, seeds[seed]) for seed in sorted(seeds)),
            epochs=there.schedule.epochs,
            full_epochs=recipe.schedule.epochs,
            recipe=digest(there),
            unfinished=tuple(match.run.name for match in here if not match.run.finished),
            waiting=tuple(waiting[place]),
        )
    any_match = next((match for some in found.values() for match in some), None)
    filled = FilledTable(
        table=table,
        setting=setting,
        data=_data(matcher, any_match) if any_match is not None else "",
        cells=cells,
        others=_others(matches, ours, matcher),
    )
    used = {*filled.finished, *filled.unfinished}
    reasons = (f"{name}: {reason}" for name, reason in sorted(left_out.items()) if name not in used)
    return replace(filled, left_out=tuple(reasons))


def _value(table: PublishedTable, match: Match) -> SeedValue:
    row, about = match.run.row, match.run.environment
    version = str(about.get("regard") or "")
    if version and about.get("commit"):
        version += f"+{str(about['commit'])[:7]}"
    teacher = "" if match.cell.teacher is None else folder_name(match.teachers[0])
    return SeedValue(match.run.seed, match.run.name, tuple(m.of(row) for m in table.metrics), version, teacher)


def _within(match: Match, setting: Setting, matcher: Matcher) -> bool:
    """Whether a run is in this setting."""
    same = match.overrides == matcher.overrides(match.cell, setting)
    return same and match.epochs == epochs_of(match.full_epochs, setting.budget)


def _taught_otherwise(match: Match, known: Mapping[str, Sequence[Match]], matcher: Matcher) -> str:
    """Why the teacher of a run is not the one that its cell names; empty if it is.

    Args:
        match: the run.
        known: of all runs of the store, the cells of the table that they belong to in the setting.
        matcher: of the table.
    """
    if match.cell.teacher is None:
        teachers, asked = matcher.teachers(match.cell), match.teachers
        if [folder_name(name) for name in teachers] == [folder_name(name) for name in asked]:
            return ""
        return f"its teacher is {' and '.join(asked) or 'nobody'}, the recipe says {' and '.join(teachers) or 'nobody'}"
    if len(match.teachers) != 1:
        return f"it has {len(match.teachers)} teachers, the recipe has one"
    name = folder_name(match.teachers[0])
    if name not in known:
        return f"its teacher {name} is not in the store, so that nothing shows what it learned from"
    wanted = (match.cell.row, match.cell.teacher)
    if all((other.cell.row, other.cell.column) != wanted for other in known[name]):
        return f"its teacher {name} does not have the recipe and the setting of the cell's teacher"
    return ""


def _unfinished_teacher(match: Match, stored: Mapping[str, StoredRun]) -> str:
    """Why the teacher of a run, of this store, cannot have taught it all there is; empty if it can."""
    if match.cell.teacher is None:
        return ""
    name = folder_name(match.teachers[0])
    teacher = stored[name]
    if teacher.finished:
        return ""
    short = teacher.epochs < teacher.epochs_asked
    lacking = f"it has {teacher.epochs} of {teacher.epochs_asked} epochs" if short else "it has no weights"
    return f"its teacher {name} is not finished: {lacking}"


def _fullest(matches: Iterable[Match]) -> Setting | None:
    """The setting with the longest schedules, and the most runs of those."""
    groups: dict[str, list[Match]] = defaultdict(list)
    for match in matches:
        groups[match.others].append(match)
    best: tuple[float, int, str] | None = None
    chosen = None
    for others, group in sorted(groups.items()):
        for budget in sorted({match.epochs / match.full_epochs for match in group}):
            fitting = [match for match in group if match.epochs == epochs_of(match.full_epochs, budget)]
            longest = max(match.epochs / match.full_epochs for match in fitting)
            rank = (longest, len(fitting), others)
            if best is None or rank > best:
                best, chosen = rank, Setting(budget, dict(group[0].overrides))
    return chosen


def _data(matcher: Matcher, match: Match) -> str:
    """The data of a run in words."""
    setting = matcher.facts(match.run).setting
    words = [str(setting["data.name"])]
    if setting["data.train_images"] is not None:
        words.append(f"{setting['data.train_images']:,} training images")
    said = ("data.name", "data.train_images")
    words += [f"{name.removeprefix('data.')} {value}" for name, value in match.overrides.items() if name not in said]
    return ", ".join(words)


def _others(
    matches: Mapping[str, Sequence[Match]], ours: Mapping[str, Sequence[Match]], matcher: Matcher
) -> tuple[str, ...]:
    """Runs in other settings, and how to see them."""
    counts: Counter[tuple[str, str]] = Counter()
    for name, found in matches.items():
        if found and not ours[name] and found[0].run.finished:
            counts[_data(matcher, found[0]), shlex.join(_options(found[0]))] += 1
    return tuple(
        f"{counted(count, 'finished run')} with {data} ({options or '--budget 1'})"
        for (data, options), count in sorted(counts.items())
    )


def _options(match: Match) -> list[str]:
    """That show the setting of a run."""
    budget = match.epochs / match.full_epochs
    options = [] if budget == 1 else ["--budget", f"{budget:.4g}"]
    for name, value in match.overrides.items():
        options += [f"--{name}", _argument(value)]
    return options


def _argument(value: Any) -> str:
    return "null" if value is None else str(value)
