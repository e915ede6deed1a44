"""Plans the runs that a table needs, teachers before students."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from regard.errors import InputError
from regard.store import StoredRun
from regard.tables import Matcher, Overrides, PublishedTable, fill, run_name
from regard.tables.matching import digest, folder_name
from regard.training import WHERE, Recipe, field_arguments, flat, load_recipe, plain, with_fields

State = Literal["finished", "begun", "missing"]


@dataclass(frozen=True)
class Job:
    """A run that a table needs.

    Attributes:
        name: name of the run folder in the store.
        store: absolute address of the store.
        recipe: the complete recipe.
        command: `regard train` with this recipe; works in any directory.
        teacher: name of the run that has to finish first.
        cells: (row, column) of all cells that the run fills, itself or as a teacher.
        state: finished, begun (its folder exists and will be resumed), or missing.
        epochs_done: number of finished epochs.
    """

    name: str
    store: str
    recipe: Recipe = field(repr=False)
    command: list[str] = field(repr=False)
    teacher: str | None
    cells: tuple[tuple[str, str], ...]
    state: State = "missing"
    epochs_done: int = 0

    @property
    def epochs(self) -> int:
        """Number of epochs in the recipe."""
        return self.recipe.schedule.epochs


@dataclass(frozen=True)
class Plan:
    """The runs of a table, existing and missing.

    Attributes:
        table: the table with the selected rows.
        overrides: overrides of all runs.
        seeds: seeds of each cell.
        jobs: teachers before students, and the first seed of every cell before the second.
        without_recipe: cells without a recipe.
    """

    table: PublishedTable
    overrides: Overrides
    seeds: tuple[int, ...]
    jobs: tuple[Job, ...]
    without_recipe: tuple[tuple[str, str], ...] = ()

    @property
    def todo(self) -> list[Job]:
        """The unfinished jobs."""
        return [job for job in self.jobs if job.state != "finished"]

    @property
    def levels(self) -> list[list[Job]]:
        """The unfinished jobs in waves, each of which depends only on jobs of earlier waves."""
        depth: dict[str, int] = {}
        levels: dict[int, list[Job]] = defaultdict(list)
        for job in self.todo:  # teachers come first
            depth[job.name] = depth.get(job.teacher or "", -1) + 1
            levels[depth[job.name]].append(job)
        return [levels[level] for level in sorted(levels)]


def make_plan(
    table: PublishedTable,
    runs: Sequence[StoredRun],
    overrides: Overrides,
    seeds: Sequence[int],
    *,
    store: str = "runs",
    columns: Sequence[str] | None = None,
    where: Mapping[str, Any] | None = None,
) -> Plan:
    """Plans the runs that a table needs, and finds which of them exist.

    A student of seed s learns from the teacher of seed s, so that the runs of a cell are independent.

    Args:
        table: the table with the selected rows.
        runs: the runs in the store.
        overrides: overrides of all runs.
        seeds: seeds of each cell.
        store: address of the store.
        columns: selected columns, whose teachers are added; None for all.
        where: recipe fields that do not affect the result, such as `data.folder` and `device`.

    Raises:
        InputError: an unknown column, no cell with a recipe, or an invalid recipe.
    """
    for column in columns or ():
        if column not in table.columns:
            raise InputError(f"{table.name} has no column {column!r}; it has {', '.join(table.columns)}")
    planner = _Planner(table, runs, overrides, store if "://" in store else os.path.abspath(store), dict(where or {}))
    for seed in seeds:
        for position, cell in table.cells.items():
            if cell.recipe is not None and (columns is None or cell.column in columns):
                planner.add(position, seed)
    if not planner.jobs:
        raise InputError(f"{table.name} has no recipe for any of these cells; there is nothing to run")
    jobs = [
        replace(job, cells=tuple(position for position in table.cells if position in planner.cells[job.name]))
        for job in planner.jobs.values()
    ]
    without_recipe = tuple(position for position, cell in table.cells.items() if cell.recipe is None)
    return Plan(table, overrides, tuple(seeds), tuple(jobs), without_recipe)


class _Planner:
    """Collects jobs. Cells with the same recipe share their runs."""

    def __init__(
        self,
        table: PublishedTable,
        runs: Sequence[StoredRun],
        overrides: Overrides,
        store: str,
        where: Mapping[str, Any],
    ) -> None:
        self.table, self.overrides, self.store, self.where = table, overrides, store, where
        self.matcher = Matcher(table)
        self.stored = {run.name: run for run in runs}
        self.filled = fill(table, runs, overrides)
        self.jobs: dict[str, Job] = {}
        self.cells: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self.new_names: dict[tuple[str | None, ...], str] = {}  # by recipe, seed and teacher

    def add(self, position: tuple[str, str], seed: int, run: str | None = None) -> str:
        """Adds the job of a cell and a seed, after the job of its teacher, and returns its name.

        `run` names the run in the store to use; by default any run that fills the cell, or a new one.
        """
        cell = self.table.cells[position]
        stored = self.stored[run] if run is not None else self.stored_run(position, seed)
        teacher = None
        if cell.teacher is not None:
            teacher = self.add((cell.row, cell.teacher), seed, self.teacher_of(stored))
            self.cells[teacher].add(position)
        name = stored.name if stored is not None else self.new_name(position, seed, teacher)
        self.cells[name].add(position)
        if name not in self.jobs:
            recipe, command = self.recipe(position, seed, name, teacher, stored)
            self.jobs[name] = Job(
                name=name,
                store=self.store,
                recipe=recipe,
                command=command,
                teacher=teacher,
                cells=(),
                state="missing" if stored is None else "finished" if stored.finished else "begun",
                epochs_done=0 if stored is None else stored.epochs,
            )
        return name

    def teacher_of(self, student: StoredRun | None) -> str | None:
        """The teacher of a stored run if it is also stored; it need not be the first run of its recipe and seed."""
        names = [] if student is None else [folder_name(path) for path in student.teachers]
        return next((name for name in names if name in self.stored), None)

    def stored_run(self, position: tuple[str, str], seed: int) -> StoredRun | None:
        """The stored run that fills a cell with a seed, preferably a finished one."""
        cell = self.filled.cells[position]
        # Waiting runs are finished, but a file of their teacher is missing.
        names = (*(result.run for result in cell.runs), *cell.waiting, *cell.unfinished)
        return next((self.stored[name] for name in names if self.stored[name].seed == seed), None)

    def new_name(self, position: tuple[str, str], seed: int, teacher: str | None) -> str:
        """An unused name for a new run."""
        cell, recipe = self.table.cells[position], self.matcher.recipes[position]
        key = (digest(self.overrides.apply(recipe)), str(seed), teacher)
        if key not in self.new_names:
            name = run_name(cell, recipe, self.overrides, seed)
            stem, count = f"{name.removesuffix(f'-seed{seed}')}-{key[0][:6]}", 1
            while name in self.stored or name in self.jobs:
                name = f"{stem}{'' if count == 1 else f'-{count}'}-seed{seed}"
                count += 1
            self.new_names[key] = name
        return self.new_names[key]

    def recipe(
        self, position: tuple[str, str], seed: int, name: str, teacher: str | None, stored: StoredRun | None
    ) -> tuple[Recipe, list[str]]:
        """The complete recipe of a run, and the command that trains it."""
        published, cell = self.matcher.recipes[position], self.table.cells[position]
        recipe = with_fields(self.overrides.apply(published), {**self.where, "seed": seed})
        teachers: Any = recipe.transfer.teacher
        if teacher is not None:
            teachers = f"{self.store}/{teacher}"
        elif teachers is not None:
            teachers = _absolute(teachers) if isinstance(teachers, str) else list(map(_absolute, teachers))
        folder = recipe.data.folder and _absolute(recipe.data.folder)
        recipe = with_fields(recipe, {"data.folder": folder, "transfer.teacher": teachers})
        recipe.check()
        fields, published_fields = flat(plain(recipe)), flat(plain(published))
        begun = stored if stored is not None and not stored.finished else None
        if begun is not None:
            # Fields that do not affect the result, such as `compile`, stay as they were when the run began.
            constant = fields.keys() - {*WHERE, "transfer.teacher"}
            fields |= {field: value for field, value in flat(dict(begun.recipe)).items() if field in constant}
        changed = {field: value for field, value in fields.items() if value != published_fields.get(field)}
        options = field_arguments({**cell.overrides, **changed})
        if begun is not None:
            with suppress(InputError):  # an invalid value; the run will report it
                recipe = load_recipe(cell.recipe, options)
        source = cell.recipe or ""
        if source.endswith((".yaml", ".yml")):
            source = os.path.abspath(source)
        return recipe, ["regard", "train", source, *options, "--run", f"{self.store}/{name}", "--resume"]


def _absolute(name: str) -> str:
    """The absolute path of an existing file or folder; other text is returned unchanged."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name
