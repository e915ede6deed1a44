"""Which runs a table still needs, teachers before students."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from regard.errors import InputError
from regard.store import StoredRun
from regard.tables import FilledTable, Matcher, PublishedTable, Setting, fill, run_name
from regard.tables.matching import digest, folder_name
from regard.training import Recipe, flat, plain, with_fields

State = Literal["finished", "begun", "missing"]


@dataclass(frozen=True)
class Job:
    """A run that a table needs.

    Attributes:
        name: of its folder in the store.
        recipe: the whole of it; its teacher, if it has one of the table, is named as its folder is.
        changes: the fields in which it is other than the file of its recipe, by dotted name.
        source: the recipe's name, or the path of its file.
        seed: of the recipe.
        teacher: the name of the run that has to be finished before.
        cells: (row, column) of all that it fills or teaches.
        state: finished, begun (it has a folder, and is resumed), or missing.
        epochs_done: of the recipe's.
    """

    name: str
    recipe: Recipe = field(repr=False)
    changes: Mapping[str, Any] = field(repr=False)
    source: str
    seed: int
    teacher: str | None
    cells: tuple[tuple[str, str], ...]
    state: State = "missing"
    epochs_done: int = 0

    @property
    def epochs(self) -> int:
        return self.recipe.schedule.epochs

    @property
    def command(self) -> list[str]:
        """What one would type, in the folder of the store, to train the same."""
        options = [part for name, value in self.changes.items() for part in (f"--{name}", _argument(value))]
        return ["regard", "train", self.source, *options, "--run", self.name, "--resume"]

    @property
    def typed(self) -> str:
        """The command, for a shell."""
        return shlex.join(self.command)


@dataclass(frozen=True)
class Plan:
    """What is there, and what is to be done.

    Attributes:
        table: with the rows that were asked for.
        setting: of all runs.
        seeds: of each cell.
        jobs: teachers before students, and the first seeds of all before the second.
        without_recipe: cells that regard has no recipe for.
    """

    table: PublishedTable
    setting: Setting
    seeds: tuple[int, ...]
    jobs: tuple[Job, ...]
    without_recipe: tuple[tuple[str, str], ...] = ()

    @property
    def todo(self) -> list[Job]:
        return [job for job in self.jobs if job.state != "finished"]


def make_plan(
    table: PublishedTable,
    runs: Sequence[StoredRun],
    setting: Setting,
    seeds: Sequence[int],
    *,
    columns: Sequence[str] | None = None,
    where: Mapping[str, Any] | None = None,
) -> Plan:
    """The runs that a table needs, and which of them are there.

    A student of seed s learns from the teacher of seed s, so that the runs of a cell are independent of one another.

    Args:
        table: with the rows that are wanted.
        runs: of the store.
        setting: of all runs.
        seeds: of each cell.
        columns: that are wanted, with their teachers; None: all.
        where: fields of the recipes that say where and how runs take place, such as `data.folder` and `device`.

    Raises:
        InputError: a column that the table does not have, no cell with a recipe, a recipe that is not valid.
    """
    for column in columns or ():
        if column not in table.columns:
            raise InputError(f"{table.name} has no column {column!r}; it has {', '.join(table.columns)}")
    makers = _Makers(table, runs, setting, dict(where or {}))
    for seed in seeds:
        for place, cell in table.cells.items():
            if cell.recipe is not None and (columns is None or cell.column in columns):
                makers.job(place, seed)
    if not makers.jobs:
        raise InputError(f"{table.name} has no recipe for any of these cells; there is nothing to run")
    jobs = makers.jobs.values()
    return Plan(
        table,
        setting,
        tuple(seeds),
        tuple(
            replace(job, cells=tuple(place for place in table.cells if place in makers.cells[job.name])) for job in jobs
        ),
        tuple(place for place, cell in table.cells.items() if cell.recipe is None),
    )


class _Makers:
    """The jobs so far. Cells with one recipe share their runs."""

    def __init__(
        self, table: PublishedTable, runs: Sequence[StoredRun], setting: Setting, where: Mapping[str, Any]
    ) -> None:
        self.table, self.setting, self.where = table, setting, where
        self.matcher = Matcher(table)
        self.stored = {run.name: run for run in runs}
        self.filled: FilledTable = fill(table, runs, setting)
        self.jobs: dict[str, Job] = {}
        self.cells: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self.new: dict[tuple[str | None, ...], str] = {}  # the names of new runs, by what they are

    def job(self, place: tuple[str, str], seed: int, run: str | None = None) -> Job:
        """The run of a cell and a seed; its teacher's is made before it.

        Args:
            place: of the cell.
            seed: of the run.
            run: its name, if it is to be a certain one of those in the store.
        """
        cell = self.table.cells[place]
        there = self.there(place, seed) if run is None else self.stored[run]
        teacher = None
        if cell.teacher is not None:
            whose = (cell.row, cell.teacher)
            teacher = self.job(whose, seed, self.begun_with(there)).name
            self.cells[teacher].add(place)
        name = there.name if there is not None else self.free_name(place, seed, teacher)
        self.cells[name].add(place)
        if name not in self.jobs:
            recipe, changes = self.recipe(place, seed, teacher)
            self.jobs[name] = Job(
                name=name,
                recipe=recipe,
                changes=changes,
                source=cell.recipe or "",
                seed=seed,
                teacher=teacher,
                cells=(),
                state="missing" if there is None else "finished" if there.finished else "begun",
                epochs_done=0 if there is None else there.epochs,
            )
        return self.jobs[name]

    def begun_with(self, student: StoredRun | None) -> str | None:
        """The run that a student in the store learns from, which may not be the first of its seed."""
        names = [] if student is None else [folder_name(path) for path in student.teachers]
        return next((name for name in names if name in self.stored), None)

    def there(self, place: tuple[str, str], seed: int) -> StoredRun | None:
        """The run in the store that fills a cell with a seed, a finished one if there is one."""
        cell = self.filled.cells[place]
        for one in cell.seeds:
            if one.seed == seed:
                return self.stored[one.run]
        others = (*cell.waiting, *cell.unfinished)  # those whose teacher was damaged count once it is mended
        return next((self.stored[name] for name in others if self.stored[name].seed == seed), None)

    def free_name(self, place: tuple[str, str], seed: int, teacher: str | None) -> str:
        """A name for a new run that nothing else in the store has."""
        cell, recipe = self.table.cells[place], self.matcher.recipes[place]
        key = (digest(self.setting.of(recipe)), str(seed), teacher)
        if key not in self.new:
            name = run_name(cell, recipe, self.setting, seed)
            stem, count = f"{name.removesuffix(f'-seed{seed}')}-{key[0][:6]}", 1
            while name in self.stored or name in self.jobs:
                name = f"{stem}{'' if count == 1 else f'-{count}'}-seed{seed}"
                count += 1
            self.new[key] = name
        return self.new[key]

    def recipe(self, place: tuple[str, str], seed: int, teacher: str | None) -> tuple[Recipe, dict[str, Any]]:
        """The whole recipe of a run, and how it differs from its file."""
        published = self.matcher.recipes[place]
        recipe = with_fields(self.setting.of(published), {**self.where, "seed": seed})
        places = {"data.folder": recipe.data.folder, "transfer.teacher": recipe.transfer.teacher}
        found = {name: absolute(place) for name, place in places.items() if isinstance(place, str)}
        if teacher is not None:
            found["transfer.teacher"] = teacher
        recipe = with_fields(recipe, found)
        recipe.check()
        now, then = flat(plain(recipe)), flat(plain(published))
        return recipe, {name: value for name, value in now.items() if value != then.get(name)}


def absolute(place: str) -> str:
    """A file or folder of this machine as workers find it, whose working directory is another; else what was given."""
    path = Path(place).expanduser()
    return str(path.resolve()) if path.exists() else place


def _argument(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
