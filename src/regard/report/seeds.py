"""Runs of one recipe with several seeds, as one network."""

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

_MOST_FIELDS = 4  # that tell networks with the same model apart
_DEEPEST = 8  # of teachers' teachers; a run that is its own teacher ends there
_SEED_IN_NAME = re.compile(r"-seed(\d{1,18})(?=$|/)")  # as `regard train` names runs
_DESCRIBED = ("model.", "transfer.", "guidance.")


@dataclass(frozen=True, eq=False)
class SeedGroup:
    """A network: the runs of its recipe, which differ in their seeds and in where and how they ran.

    Attributes:
        name: unique among the networks of a report; where there are several runs, theirs begin with it.
        runs: in order of their seeds, one per seed, at least one: the finished ones, or, if none is, the others.
        description: the model and the fields of the recipe that differ from the defaults or between networks.
        unfinished: runs of other seeds, which are not counted.
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
        """Learned ones; None where no run says it."""
        return next((run.parameters for run in self.runs if run.parameters is not None), None)

    @property
    def multiply_adds(self) -> int | None:
        """Of one test image; None where no run says it."""
        return next((run.multiply_adds for run in self.runs if run.multiply_adds is not None), None)

    @cached_property
    def finished(self) -> bool:
        """Whether its runs have finished all epochs."""
        return all(run.finished for run in self.runs)

    def values(self, measure: str) -> dict[int, float]:
        """Seed -> value in [0, 1] where it is known; the mean if there are runs with several teachers."""
        values: dict[int, list[float]] = {}
        for run in self.runs:
            if (value := run.value(measure)) is not None:
                values.setdefault(run.recipe.seed, []).append(value)
        return {seed: statistics.fmean(of_seed) for seed, of_seed in values.items()}

    def estimate(self, measure: str) -> Estimate | None:
        """Of several runs their mean, with its interval over the seeds; of one, with its interval over the images.

        None where no run says it, or where the runs have finished different numbers of epochs.
        """
        if len(self.runs) == 1:
            return self.first.estimate(measure)
        values = [value for run in self.runs if (value := run.value(measure)) is not None]
        return stats.mean(values, 0, 1) if values and len({run.epochs for run in self.runs}) == 1 else None

    def to_record(self) -> dict[str, Any]:
        """A flat dict, JSON-ready; None where something is not known."""
        record: dict[str, Any] = {
            "network": self.name,
            "description": self.description,
            "finished": self.finished,
            "seeds": len(self.runs),
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
        }
        for measure in MEASURES:
            estimate = self.estimate(measure)
            value = self.first.value(measure) if estimate is None and len(self.runs) == 1 else None
            values = list(self.values(measure).values())
            deviation = statistics.stdev(values) if estimate and len(self.runs) > 1 and len(values) > 1 else None
            bare = Estimate(math.nan if value is None else value, math.nan, math.nan, 0)
            record |= interval_record(measure, estimate or bare)
            record |= {f"{measure}_n": estimate.n if estimate else None, f"{measure}_deviation": deviation}
        return record

    def run_records(self) -> list[dict[str, Any]]:
        """A flat dict for each run, JSON-ready; None where something is not known."""
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
    """Puts runs that differ only in their seeds together.

    Two runs belong together if they were tested on the same set (see `RunResult.test_set`) and their recipes differ in
    nothing but the seed, where and how they ran, and teachers, or runs that they start from, that belong together
    themselves. Of one whose run folder is neither at its path nor beside the student's, the name decides, without its
    `-seed<number>`.

    Args:
        results: from `collect`.
        names: of the networks, in their order; None: the common part of the names of their runs, without a
            `-seed<number>` at the end.

    Returns:
        The networks, in order of their first runs, and notes on runs that are not counted.

    Raises:
        InputError: names that are not unique or not as many as the networks.
    """
    together: dict[str, dict[tuple[int, ...], list[RunResult]]] = {}
    for result in results:
        key, seeds = _lineage(result.recipe, result.run.folder)
        together.setdefault(json.dumps([key, result.test_set]), {}).setdefault(seeds, []).append(result)
    notes: list[Note] = []
    parts = []
    for by_seeds in together.values():
        finished: list[RunResult] = []
        unfinished: list[RunResult] = []
        for seeds in sorted(by_seeds):
            best, *others = sorted(by_seeds[seeds], key=lambda run: (not run.finished, -run.epochs))
            (finished if best.finished else unfinished).append(best)
            notes += [Note(other.name, f"not counted: recipe and seed of {best.name}") for other in others]
        parts.append((finished or unfinished, unfinished if finished else []))
        counted = "not counted: " if finished else ""
        notes += [Note(run.name, f"{counted}{run.epochs} of {run.recipe.schedule.epochs} epochs") for run in unfinished]
    titles = _titles([runs for runs, _ in parts])
    titles = titles if names is None else _checked(names, titles)
    networks = {
        run.run.folder.resolve(): title for title, part in zip(titles, parts, strict=True) for run in sum(part, [])
    }
    descriptions = _descriptions([runs[0] for runs, _ in parts], networks)
    groups = []
    for title, description, (runs, others) in zip(titles, descriptions, parts, strict=True):
        several = len(runs) + len(others) > 1
        named = [_renamed(run, f"{title}, seed {_seed(run, runs)}" if several else title) for run in (*runs, *others)]
        groups.append(SeedGroup(title, tuple(named[: len(runs)]), description, tuple(named[len(runs) :])))
    return groups, notes


def teacher_folders(teacher: str, folder: Path) -> tuple[Path, Path]:
    """Where the run folder of a teacher may be: at its path, and, if runs were moved together, beside the student's."""
    return Path(os.path.realpath(teacher)), folder.resolve().parent / Path(teacher).name


def plainest(groups: Sequence[SeedGroup]) -> SeedGroup:
    """The network to compare the others with: without a teacher, guidance or another run to start from, without
    attention, with the plain gate, and the cheapest of these; the first of several.
    """

    def rank(group: SeedGroup) -> tuple[bool, bool, bool, int]:
        recipe = group.first.recipe
        helped = bool(recipe.sources) or recipe.guidance.used
        return helped, recipe.model.attention is not None, recipe.model.gate != "sigmoid", group.parameters or 0

    return min(groups, key=rank)


def _lineage(recipe: Recipe, folder: Path, depth: int = 0) -> tuple[str, tuple[int, ...]]:
    """A key that is the same for recipes that differ only in seeds and in where and how they ran, and the seeds of the
    recipe and of its teachers, and of the run that it starts from.
    """
    keys: list[str] = []
    seeds = [recipe.seed]
    for source in recipe.sources:
        key, of_source = _SEED_IN_NAME.sub("", source), tuple(map(int, _SEED_IN_NAME.findall(source)))
        for path in teacher_folders(source, folder) if depth < _DEEPEST else ():
            if (of_path := _recipe_at(path)) is not None:
                key, of_source = _lineage(of_path, path, depth + 1)
                break
        keys.append(key)
        seeds += of_source
    compared = {
        name: value for name, value in flat(plain(recipe)).items() if name not in (*WHERE, "seed", "transfer.teacher")
    }
    if isinstance(recipe.model.pretrained, str):
        compared["model.pretrained"] = "a source"
    return json.dumps([compared, keys], sort_keys=True, default=str), tuple(seeds)


def _recipe_at(path: Path) -> Recipe | None:
    """Of the run folder there; None without one."""
    if path.is_dir():
        with suppress(InputError, OSError):
            return Run.open(path).recipe
    return None


def _descriptions(firsts: Sequence[RunResult], networks: dict[Path, str]) -> list[str]:
    """The model of each network, its teacher, and the fields of its recipe that are not the default's; of networks with
    the same ones and the same test set also the fields that differ, if few.
    """
    default = _fields(Recipe())
    fields = [_fields(run.recipe) for run in firsts]
    basic = [
        {name: v for name, v in every.items() if name.startswith(_DESCRIBED) and v != default.get(name)}
        for every in fields
    ]
    described = []
    for run, every, named in zip(firsts, fields, basic, strict=True):
        alike = [
            other
            for other, of_other, result in zip(fields, basic, firsts, strict=True)
            if of_other == named and result.test_set == run.test_set
        ]
        differing = {
            name: value
            for name, value in every.items()
            if name not in (*WHERE, "seed", "transfer.teacher", "model.pretrained", "data.mean", "data.std")
            and any(other.get(name) != value for other in alike)
        }
        named = named | (differing if len(differing) <= _MOST_FIELDS else {})
        named.pop("model.name", None)
        model, teachers = run.recipe.model, run.recipe.transfer.teachers
        starts = {"transfer.teacher": teachers}
        if isinstance(model.pretrained, str):
            starts["model.pretrained"] = (model.pretrained,)
        for name, sources in starts.items():
            folders = [teacher_folders(source, run.run.folder) for source in sources]
            names = [next((networks[f] for f in pair if f in networks), pair[1].name) for pair in folders]
            named |= {name: ", ".join(names)} if names else {}
        pairs = [f"{name.removeprefix('model.')} {option_text(value)}" for name, value in named.items()]
        described.append(printable(", ".join([run.recipe.model.name, *pairs])))
    return described


def _fields(recipe: Recipe) -> dict[str, Any]:
    """By dotted names, options one by one; without those of guidance that is not used."""
    fields: dict[str, Any] = {}
    for name, value in flat(plain(recipe)).items():
        if name.startswith("guidance.") and not recipe.guidance.used:
            continue
        fields |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    return fields


def _seed(run: RunResult, runs: Sequence[RunResult]) -> str:
    """The seed, and where several runs have it, the name of the run."""
    same = [other for other in runs if other.recipe.seed == run.recipe.seed]
    return str(run.recipe.seed) if len(same) < 2 else f"{run.recipe.seed} ({run.name})"


def _titles(parts: Sequence[Sequence[RunResult]]) -> list[str]:
    """Names for the networks: unique, and short where the runs are named as `regard train` names them."""
    wanted = []
    for runs in parts:
        bare = [_SEED_IN_NAME.sub("", run.name) for run in runs]
        common = bare[0] if len(set(bare)) == 1 else os.path.commonprefix(bare).rstrip("-_. /")
        wanted.append(common or bare[0])
    return [runs[0].name if wanted.count(title) > 1 else title for title, runs in zip(wanted, parts, strict=True)]


def _checked(names: Sequence[str], titles: Sequence[str]) -> list[str]:
    names = [printable(name) for name in names]
    if len(names) != len(titles):
        raise InputError(f"{len(names)} names for {len(titles)} networks ({', '.join(titles)}); give one for each")
    for name in names:
        if not name or names.count(name) > 1:
            raise InputError(f"the name {name!r} is empty or given twice; give each network a name of its own")
    return names


def _renamed(run: RunResult, name: str) -> RunResult:
    return replace(run, name=name, bias=run.bias and replace(run.bias, model=name))
