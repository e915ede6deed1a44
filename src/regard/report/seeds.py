"""Groups the runs of one recipe with different seeds as one network."""

from __future__ import annotations

import json
import math
import os
import re
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from regard import stats
from regard.errors import InputError
from regard.formatting import printable
from regard.report.collect import MEASURES, RunResult
from regard.report.records import Note
from regard.stats import Estimate, interval_record
from regard.training import WHERE, Recipe, Run, flat, option_text, plain

_MOST_FIELDS = 4  # in the description of networks with the same model
_DEEPEST = 8  # teachers of teachers; ends the recursion for a run that is its own teacher
_SEED_IN_NAME = re.compile(r"-seed(\d{1,18})(?=$|/)")  # as `regard train` names runs
_DESCRIBED = ("model.", "transfer.", "guidance.")


@dataclass(frozen=True, eq=False)
class SeedGroup:
    """A network: runs whose recipes differ only in the seed and in where and how they ran.

    Attributes:
        name: unique among the networks of a report; the names of several runs begin with it.
        runs: one or more runs, one per seed, in order of the seeds: the finished runs if there are any.
        description: the model, and the fields of the recipe that differ from the defaults or between networks.
        unfinished: unfinished runs of other seeds, which are not counted.
    """

    name: str
    runs: tuple[RunResult, ...]
    description: str
    unfinished: tuple[RunResult, ...] = ()

    @property
    def first(self) -> RunResult:
        """The run of the first seed."""
        return self.runs[0]

    @property
    def parameters(self) -> int | None:
        """Number of learned parameters; None if no run records it."""
        return next((run.parameters for run in self.runs if run.parameters is not None), None)

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds for one test image; None if no run records it."""
        return next((run.multiply_adds for run in self.runs if run.multiply_adds is not None), None)

    @cached_property
    def finished(self) -> bool:
        """Whether all runs have finished all epochs."""
        return all(run.finished for run in self.runs)

    def values(self, measure: str) -> dict[int, float]:
        """Seed -> value in [0, 1] if known; the mean over several runs of a seed, whose teachers differ."""
        values: dict[int, list[float]] = {}
        for run in self.runs:
            if (value := run.value(measure)) is not None:
                values.setdefault(run.recipe.seed, []).append(value)
        return {seed: statistics.fmean(seed_values) for seed, seed_values in values.items()}

    def estimate(self, measure: str) -> Estimate | None:
        """The mean over the seeds with its interval, or the estimate of one run over images.

        None if no run has the measure, or if the runs have finished different numbers of epochs.
        """
        if len(self.runs) == 1:
            return self.first.estimate(measure)
        values = list(self.values(measure).values())
        return stats.mean(values, 0, 1) if values and len({run.epochs for run in self.runs}) == 1 else None

    def to_record(self) -> dict[str, Any]:
        """A flat dict, JSON-ready; None for unknown values."""
        record: dict[str, Any] = {
            "network": self.name,
            "description": self.description,
            "finished": self.finished,
            "seeds": len({run.recipe.seed for run in self.runs}),
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
        }
        for measure in MEASURES:
            estimate = self.estimate(measure)
            value = self.first.value(measure) if estimate is None and len(self.runs) == 1 else None
            values = list(self.values(measure).values())
            deviation = statistics.stdev(values) if estimate and len(values) > 1 else None
            without_interval = Estimate(math.nan if value is None else value, math.nan, math.nan, 0)
            record |= interval_record(measure, estimate or without_interval)
            record |= {f"{measure}_n": estimate.n if estimate else None, f"{measure}_deviation": deviation}
        return record

    def run_records(self) -> list[dict[str, Any]]:
        """One flat dict per run, JSON-ready; None for unknown values."""
        return [
            {
                "run": run.name,
                "network": self.name,
                "folder": str(run.run.folder),
                "seed": run.recipe.seed,
                "epochs": run.epochs,
                "epochs_of_recipe": run.recipe.schedule.epochs,
                "counted": run in self.runs,
                **{measure: run.value(measure) for measure in MEASURES},
            }
            for run in (*self.runs, *self.unfinished)
        ]


def seed_groups(results: Sequence[RunResult], names: Sequence[str] | None = None) -> tuple[list[SeedGroup], list[Note]]:
    """Groups runs that differ only in their seeds.

    Two runs belong together if they have the same test set (see `RunResult.test_set`) and their recipes differ only in
    the seed, in where and how they ran, and in teachers, or runs that they start from, that belong together
    themselves. If such a run folder is neither at its path nor next to the student's, its name without
    `-seed<number>` is compared.

    Args:
        results: runs from `collect`.
        names: names of the networks, in their order; None: the common part of the names of their runs, without
            `-seed<number>`.

    Returns:
        The networks, in order of their first runs, and notes on runs that are not counted.

    Raises:
        InputError: the names are not unique, or not one per network.
    """
    by_lineage: dict[str, dict[tuple[int, ...], list[RunResult]]] = {}
    for result in results:
        key, seeds = _lineage(result.recipe, result.run.folder)
        by_lineage.setdefault(json.dumps([key, result.test_set]), {}).setdefault(seeds, []).append(result)
    notes: list[Note] = []
    parts = []
    for by_seeds in by_lineage.values():
        finished: list[RunResult] = []
        unfinished: list[RunResult] = []
        for seeds in sorted(by_seeds):
            best, *duplicates = sorted(by_seeds[seeds], key=lambda run: (not run.finished, -run.epochs))
            (finished if best.finished else unfinished).append(best)
            notes += [Note(run.name, f"not counted: same recipe and seed as {best.name}") for run in duplicates]
        parts.append((finished or unfinished, unfinished if finished else []))
        prefix = "not counted: " if finished else ""
        notes += [Note(run.name, f"{prefix}{run.epochs} of {run.recipe.schedule.epochs} epochs") for run in unfinished]
    titles = _titles([runs for runs, _ in parts])
    titles = titles if names is None else _checked_names(names, titles)
    networks = {
        run.run.folder.resolve(): title for title, part in zip(titles, parts, strict=True) for run in sum(part, [])
    }
    descriptions = _descriptions([runs[0] for runs, _ in parts], networks)
    groups = []
    for title, description, (counted, uncounted) in zip(titles, descriptions, parts, strict=True):
        runs = [*counted, *uncounted]
        named = [_renamed(run, f"{title}, seed {_seed(run, counted)}" if len(runs) > 1 else title) for run in runs]
        groups.append(SeedGroup(title, tuple(named[: len(counted)]), description, tuple(named[len(counted) :])))
    return groups, notes


def teacher_folders(teacher: str, folder: Path) -> tuple[Path, Path]:
    """Possible run folders of a teacher: its path and, if runs were moved together, a folder next to the student's."""
    return Path(os.path.realpath(teacher)), folder.resolve().parent / Path(teacher).name


def default_reference(groups: Sequence[SeedGroup]) -> SeedGroup:
    """The default reference: preferably without a teacher, guidance or a run to start from, then without attention,
    then with the plain gate, then with the fewest parameters, then finished, then with the most runs.
    """

    def rank(group: SeedGroup) -> tuple[bool, bool, bool, int, bool, int]:
        recipe = group.first.recipe
        helped = bool(recipe.sources) or recipe.guidance.used
        modified = recipe.model.attention is not None, recipe.model.gate != "sigmoid"
        return helped, *modified, group.parameters or 0, not group.finished, -len(group.runs)

    return min(groups, key=rank)


def _lineage(recipe: Recipe, folder: Path, depth: int = 0) -> tuple[str, tuple[int, ...]]:
    """A key that is equal for recipes that differ only in seeds and in where and how they ran, and the seeds of the
    recipe, its teachers and the run that it starts from.
    """
    keys: list[str] = []
    seeds = [recipe.seed]
    for source in recipe.sources:
        key, source_seeds = _SEED_IN_NAME.sub("", source), tuple(map(int, _SEED_IN_NAME.findall(source)))
        for path in teacher_folders(source, folder) if depth < _DEEPEST else ():
            if (source_recipe := _recipe_at(path)) is not None:
                key, source_seeds = _lineage(source_recipe, path, depth + 1)
                break
        keys.append(key)
        seeds += source_seeds
    compared = {
        name: value for name, value in flat(plain(recipe)).items() if name not in (*WHERE, "seed", "transfer.teacher")
    }
    if isinstance(recipe.model.pretrained, str):
        compared["model.pretrained"] = "a source"
    return json.dumps([compared, keys], sort_keys=True, default=str), tuple(seeds)


def _recipe_at(path: Path) -> Recipe | None:
    """The recipe of a run folder; None if it is not one."""
    if path.is_dir():
        with suppress(InputError, OSError):
            return Run.open(path).recipe
    return None


def _descriptions(firsts: Sequence[RunResult], networks: dict[Path, str]) -> list[str]:
    """The model of each network, its teacher, and the fields of its recipe that differ from the defaults; if other
    networks have the same ones and the same test set, also the fields that differ from theirs, if few.
    """
    defaults = _fields(Recipe())
    fields = [_fields(run.recipe) for run in firsts]
    basic = [
        {name: v for name, v in run_fields.items() if name.startswith(_DESCRIBED) and v != defaults.get(name)}
        for run_fields in fields
    ]
    descriptions = []
    for run, run_fields, described in zip(firsts, fields, basic, strict=True):
        similar = [
            other_fields
            for other_fields, other_described, other in zip(fields, basic, firsts, strict=True)
            if other_described == described and other.test_set == run.test_set
        ]
        differing = {
            name: value
            for name, value in run_fields.items()
            if name not in (*WHERE, "seed", "transfer.teacher", "model.pretrained", "data.mean", "data.std")
            and any(other_fields.get(name) != value for other_fields in similar)
        }
        described = described | (differing if len(differing) <= _MOST_FIELDS else {})
        described.pop("model.name", None)
        model, teachers = run.recipe.model, run.recipe.transfer.teachers
        sources_by_field = {"transfer.teacher": teachers}
        if isinstance(model.pretrained, str):
            sources_by_field["model.pretrained"] = (model.pretrained,)
        for name, sources in sources_by_field.items():
            folders = [teacher_folders(source, run.run.folder) for source in sources]
            names = [next((networks[f] for f in pair if f in networks), pair[1].name) for pair in folders]
            described |= {name: ", ".join(names)} if names else {}
        pairs = [f"{name.removeprefix('model.')} {option_text(value)}" for name, value in described.items()]
        descriptions.append(printable(", ".join([run.recipe.model.name, *pairs])))
    return descriptions


def _fields(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe by dotted name, with separate options; without guidance if it is not used."""
    fields: dict[str, Any] = {}
    for name, value in flat(plain(recipe)).items():
        if name.startswith("guidance.") and not recipe.guidance.used:
            continue
        fields |= {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    return fields


def _seed(run: RunResult, runs: Sequence[RunResult]) -> str:
    """The seed, with the name of the run if several runs have this seed."""
    count = sum(other.recipe.seed == run.recipe.seed for other in runs)
    return str(run.recipe.seed) if count < 2 else f"{run.recipe.seed} ({run.name})"


def _titles(parts: Sequence[Sequence[RunResult]]) -> list[str]:
    """Unique names of networks: the common part of their runs' names, or the name of the first run."""
    titles = []
    for runs in parts:
        names = [_SEED_IN_NAME.sub("", run.name) for run in runs]
        common = names[0] if len(set(names)) == 1 else os.path.commonprefix(names).rstrip("-_. /")
        titles.append(common or names[0])
    return [runs[0].name if titles.count(title) > 1 else title for title, runs in zip(titles, parts, strict=True)]


def _checked_names(names: Sequence[str], titles: Sequence[str]) -> list[str]:
    names = [printable(name) for name in names]
    if len(names) != len(titles):
        raise InputError(f"{len(names)} names for {len(titles)} networks ({', '.join(titles)}); give one for each")
    for name in names:
        if not name or names.count(name) > 1:
            raise InputError(f"the name {name!r} is empty or given twice; give each network a name of its own")
    return names


def _renamed(run: RunResult, name: str) -> RunResult:
    return replace(run, name=name, bias=run.bias and replace(run.bias, model=name))
