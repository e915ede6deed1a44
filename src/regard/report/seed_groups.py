"""Runs of one recipe with several seeds, as one network."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from regard.errors import InputError
from regard.report.differences import MEASURES
from regard.report.summary import Summary, unique
from regard.report.tested import tested_on
from regard.report.wording import describe
from regard.tables.statistics import Statistics
from regard.tables.statistics import describe as statistics_of
from regard.training import WHERE, Recipe, Run, flat, plain

_MOST_FIELDS = 4  # that tell networks apart in words
_DEEPEST = 8  # of teachers' teachers; a run that is its own teacher ends there
_SEED_IN_NAME = re.compile(r"-seed(\d+)(?=$|/)")  # as `regard train` names runs


@dataclass(frozen=True, eq=False)
class SeedGroup:
    """A network of a report: the runs of its recipe, which differ in their seeds and in where and how they ran.

    Attributes:
        name: unique among the networks of a report; where there are several runs, theirs begin with it.
        rows: its runs in order of their seeds, one a seed, at least one: the finished ones, or, if none is, the others.
        what: the network in words.
        unfinished: runs of other seeds that are not counted, as they are not finished.
    """

    name: str
    rows: tuple[Summary, ...]
    what: str
    unfinished: tuple[Summary, ...] = field(default=())

    @property
    def first(self) -> Summary:
        """The run of the first seed, which stands for the network where only one can be shown."""
        return self.rows[0]

    @property
    def parameters(self) -> int | None:
        """Learned ones; None where no run tells."""
        return next((row.parameters for row in self.rows if row.parameters is not None), None)

    @property
    def multiply_adds(self) -> int | None:
        """Of one test image; None where no run tells."""
        return next((row.multiply_adds for row in self.rows if row.multiply_adds is not None), None)

    @property
    def finished(self) -> bool:
        """Whether its runs have finished all epochs."""
        return all(is_finished(row) for row in self.rows)

    @cached_property
    def accuracies(self) -> list[float]:
        """The test accuracies that are known, in [0, 1], in order of the runs."""
        return [row.test_accuracy for row in self.rows if row.test_accuracy is not None]

    def values(self, measure: str) -> dict[int, float]:
        """seed -> the value, for the seeds whose run says it; the mean, if there are runs with several teachers.

        Args:
            measure: "accuracy", "position bias" or "range bias", in percent; "spill", from 0 to 1.
        """
        found: dict[int, list[float]] = {}
        for row in self.rows:
            if (value := _value(row, measure)) is not None:
                found.setdefault(row.recipe.seed, []).append(value)
        return {seed: sum(values) / len(values) for seed, values in found.items()}

    def statistics(self, measure: str) -> Statistics | None:
        """Over the runs that say it; None if none does, or if they have not finished the same epochs."""
        values = [value for row in self.rows if (value := _value(row, measure)) is not None]
        return statistics_of(values) if values and len({row.epochs for row in self.rows}) == 1 else None


def seed_groups(rows: Sequence[Summary], names: Sequence[str] | None = None) -> tuple[list[SeedGroup], list[str]]:
    """Puts runs that differ only in their seeds together.

    Two runs belong together if they were tested on the same set (see `tested_on`) and their recipes differ in nothing
    but the seed, where and how they ran, and teachers that belong together themselves. Of a teacher whose run folder is
    neither at its path nor beside the student's, the name decides, without its `-seed<number>`.

    Args:
        rows: of the report, in order.
        names: of the networks, in their order; None: what the names of their runs have in common, without a
            `-seed<number>` at the end.

    Returns:
        The networks, in order of their first rows, and what is to be said of runs that are not counted.

    Raises:
        InputError: names that are not unique or not as many as the networks.
    """
    lineages = _Lineages()
    found: dict[str, dict[tuple[str, ...], list[Summary]]] = {}
    for row in rows:
        key = json.dumps([lineages.key(row.recipe, row.run.folder), *tested_on(row)], default=str)
        found.setdefault(key, {}).setdefault(lineages.seeds(row.recipe, row.run.folder), []).append(row)
    notes: list[str] = []
    parts = []
    for by_seeds in found.values():
        finished: list[Summary] = []
        unfinished: list[Summary] = []
        for seeds in sorted(by_seeds, key=lambda seeds: [(len(seed), seed) for seed in seeds]):
            runs = sorted(by_seeds[seeds], key=lambda row: (not is_finished(row), -row.epochs))
            (finished if is_finished(runs[0]) else unfinished).append(runs[0])
            notes += [
                f"{other.name} has the recipe and the seed of {runs[0].name} and is not counted again."
                for other in runs[1:]
            ]
        parts.append((finished or unfinished, unfinished if finished else []))
    titles = unique(names, len(parts), "networks", _titles(parts)) if names is not None else _titles(parts)
    by_folder = {
        row.run.folder.resolve(): title
        for title, (runs, others) in zip(titles, parts, strict=True)
        for row in (*runs, *others)
    }
    groups = []
    described = [describe(runs[0].recipe, _caller(runs[0], by_folder)) for runs, _ in parts]
    described = _told_apart(described, [runs[0] for runs, _ in parts])
    for title, what, (runs, others) in zip(titles, described, parts, strict=True):
        several = len(runs) + len(others) > 1
        named = [_renamed(row, f"{title}, seed {_seed(row, runs)}" if several else title) for row in (*runs, *others)]
        groups.append(SeedGroup(title, tuple(named[: len(runs)]), what, tuple(named[len(runs) :])))
    notes += [
        f"{row.name} has finished {row.epochs} of {row.recipe.schedule.epochs} epochs and is not counted."
        for group in groups
        for row in group.unfinished
    ]
    return groups, notes


def each_alone(rows: Sequence[Summary]) -> list[SeedGroup]:
    """Every row as a network of its own."""
    return [SeedGroup(row.name, (row,), row.what) for row in rows]


def same_but_for_seed(rows: Sequence[Summary]) -> list[list[Summary]]:
    """The rows whose recipes differ in nothing but the seed, theirs and their teachers', two or more together."""
    lineages = _Lineages()
    groups: dict[str, list[Summary]] = {}
    for row in rows:
        if row.test_accuracy is not None:
            groups.setdefault(lineages.key(row.recipe, row.run.folder), []).append(row)
    return [group for group in groups.values() if len({row.recipe.seed for row in group}) > 1]


def is_finished(row: Summary) -> bool:
    """Whether all epochs that its recipe asks for are done."""
    return 0 < row.recipe.schedule.epochs <= row.epochs


def told(groups: Sequence[SeedGroup], rows: Sequence[Summary]) -> list[str]:
    """What to call these runs: the network, where all of its runs are among them, else each by its own name."""
    among = {id(row) for row in rows}
    names: list[str] = []
    for group in groups:
        own = [row.name for row in group.rows if id(row) in among]
        names += [group.name] if len(own) == len(group.rows) else own
    return names


class _Lineages:
    """Recipes and their teachers' recipes; each run folder is read once."""

    def __init__(self) -> None:
        self._recipes: dict[Path, Recipe | None] = {}

    def key(self, recipe: Recipe, folder: Path, depth: int = 0) -> str:
        """The same for recipes that differ only in seeds and in where and how they ran."""
        teachers = []
        for teacher in recipe.transfer.teachers:
            place, own = self._teacher(teacher, folder) if depth < _DEEPEST else (None, None)
            if place is None or own is None:
                teachers.append(_SEED_IN_NAME.sub("", teacher))
            else:
                teachers.append(self.key(own, place, depth + 1))
        fields = flat(plain(recipe)).items()
        kept = {name: value for name, value in fields if name not in (*WHERE, "seed", "transfer.teacher")}
        return json.dumps([kept, teachers], sort_keys=True, default=str)

    def seeds(self, recipe: Recipe, folder: Path, depth: int = 0) -> tuple[str, ...]:
        """The seed of a recipe and of its teachers."""
        found = [str(recipe.seed)]
        for teacher in recipe.transfer.teachers:
            place, own = self._teacher(teacher, folder) if depth < _DEEPEST else (None, None)
            if place is None or own is None:
                found += _SEED_IN_NAME.findall(teacher)
            else:
                found += self.seeds(own, place, depth + 1)
        return tuple(found)

    def _teacher(self, teacher: str, folder: Path) -> tuple[Path, Recipe] | tuple[None, None]:
        """The run folder of a teacher and its recipe, if it can be found and read."""
        for place in teacher_places(teacher, folder):
            if place not in self._recipes:
                self._recipes[place] = None
                if place.is_dir():
                    with suppress(InputError, OSError):
                        self._recipes[place] = Run.open(place).recipe
            if (found := self._recipes[place]) is not None:
                return place, found
        return None, None


def teacher_places(teacher: str, folder: Path) -> tuple[Path, Path]:
    """Where the run folder of a teacher may be: at its path, and, if runs were moved together, beside the student's."""
    return Path(os.path.realpath(teacher)), folder.resolve().parent / Path(teacher).name


def _caller(row: Summary, by_folder: Mapping[Path, str]) -> Callable[[str], str | None]:
    def called(teacher: str) -> str | None:
        names = (by_folder.get(place) for place in teacher_places(teacher, row.run.folder))
        return next((name for name in names if name is not None), None)

    return called


def _told_apart(described: Sequence[str], rows: Sequence[Summary]) -> list[str]:
    """The networks in words; those of the same words and test set with the fields in which they differ, if few."""
    fields = [_fields(row.recipe) for row in rows]
    keys = [(words, repr(tested_on(row))) for words, row in zip(described, rows, strict=True)]
    found = []
    for key, own in zip(keys, fields, strict=True):
        words = key[0]
        alike = [other for other, same in zip(fields, keys, strict=True) if same == key]
        differing = [
            f"{name} {f'{value:g}' if isinstance(value, float) else value}"
            for name, value in own.items()
            if name not in (*WHERE, "seed", "transfer.teacher", "data.mean", "data.std")
            and any(other.get(name) != value for other in alike)
        ]
        found.append(f"{words}, {', '.join(differing)}" if 0 < len(differing) <= _MOST_FIELDS else words)
    return found


def _fields(recipe: Recipe) -> dict[str, object]:
    """By dotted names, options one by one."""
    found: dict[str, object] = {}
    for name, value in flat(plain(recipe)).items():
        found |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    return found


def _value(row: Summary, measure: str) -> float | None:
    if measure == "accuracy":
        return None if row.test_accuracy is None else 100 * row.test_accuracy
    if measure == "spill":
        return row.spill.value if row.spill else None
    rate = row.position_bias if measure == MEASURES[1] else row.range_bias
    return 100 * rate.value if rate else None


def _seed(row: Summary, rows: Sequence[Summary]) -> str:
    """The seed, and what else tells the run from those of the same seed."""
    same = [other for other in rows if other.recipe.seed == row.recipe.seed]
    return str(row.recipe.seed) if len(same) < 2 else f"{row.recipe.seed} ({row.name})"


def _titles(parts: Sequence[tuple[list[Summary], list[Summary]]]) -> list[str]:
    """Names for the networks: unique, and short where the runs are named as `regard train` names them."""
    wanted = []
    for runs, _ in parts:
        bare = [_SEED_IN_NAME.sub("", row.name) for row in runs]
        common = bare[0] if len(set(bare)) == 1 else os.path.commonprefix(bare).rstrip("-_. /")
        wanted.append(common or bare[0])
    return [runs[0].name if wanted.count(title) > 1 else title for title, (runs, _) in zip(wanted, parts, strict=True)]


def _renamed(row: Summary, name: str) -> Summary:
    return replace(row, name=name, bias=row.bias and replace(row.bias, model=name))


def plainest(groups: Sequence[SeedGroup]) -> int:
    """The place of the network that others are best compared with: without a teacher, without attention, with the plain
    gate, and the cheapest of these; the first of several.
    """

    def rank(place: int) -> tuple[bool, bool, bool, int, int]:
        recipe = groups[place].first.recipe
        model = recipe.model
        cost = groups[place].parameters or 0
        return bool(recipe.transfer.teachers), model.attention is not None, model.gate != "sigmoid", cost, place

    return min(range(len(groups)), key=rank)
