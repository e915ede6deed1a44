"""Which runs belong to which cells of a table.

A run belongs to a cell if its recipe is the cell's in all that the table compares. Data, precision and a shortened
schedule may be overridden; where it ran, whether it was compiled, and its seed do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import PurePath
from typing import Any

from regard import data
from regard.errors import InputError
from regard.store import StoredRun
from regard.tables.overrides import Overrides, may_be_overridden, shortened
from regard.tables.published import Cell, PublishedTable
from regard.training import WHERE, Recipe, ScheduleRecipe, default_size, flat, plain

# How the same is computed.
_TECHNICAL = {
    *("channels_last", "compile", "deterministic", "sync_norms", "nonfinite", "schedule.accumulate"),
    *("transfer.precision", "transfer.fold", "data.unreadable"),
}
# Options of data sets that limit their memory.
_ROOM = {"memory_limit"}
# Measured on the data.
_MEASURED = {"data.mean", "data.std"}
_LENGTH = ("schedule.epochs", "schedule.milestones", "schedule.warmup")
_ELSEWHERE = {*WHERE, *_TECHNICAL, *_MEASURED, *_LENGTH, "seed", "transfer.teacher"}


class Signature:
    """The fields of a recipe that decide to which cell and to which overrides a run belongs.

    Args:
        recipe: fields of fields; fields that it does not have get their defaults.
    """

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        fields = flat(dict(recipe))
        groups = {name.rpartition(".")[0] for name in fields}
        missing = {name: value for name, value in _defaults().items() if name not in fields and name not in groups}
        self.fields = {**missing, **fields}
        name, options = self.fields["data.name"], self.fields["data.options"]
        with suppress(InputError, TypeError):  # of a data set that is no more
            usual = data.all_options(name)
            others = {option: value for option, value in options.items() if value != usual.get(option)}
            self.fields["data.options"] = {option: others[option] for option in others if option not in _ROOM}
        if name in data.names() and self.fields["data.size"] is None:
            self.fields["data.size"] = default_size(name, detector=self.fields["model.detector"] is not None)
        # Weights of ImageNet, wherever they come from, and attention that begins as these imply.
        pretrained, start = self.fields["model.pretrained"], self.fields["model.attention_start"]
        if isinstance(pretrained, str) or start == ("identity" if pretrained else "published"):
            self.fields["model.attention_start"] = None
        self.fields["model.pretrained"] = bool(pretrained)

    @cached_property
    def compared(self) -> dict[str, Any]:
        """What has to be the same in two runs of one cell."""
        return self._counted(overridable=False)

    @cached_property
    def overridable(self) -> dict[str, Any]:
        """What has to be the same in all runs of one table, besides the schedule."""
        return self._counted(overridable=True)

    def overrides(self, recipe: Signature) -> dict[str, Any]:
        """The fields that may be overridden and have other values than in a recipe."""
        return {name: value for name, value in self.overridable.items() if value != recipe.overridable.get(name)}

    @cached_property
    def key(self) -> str:
        """The same for recipes that are compared as the same."""
        return _text(self.compared)

    @property
    def epochs(self) -> int:
        return self.fields["schedule.epochs"]

    @property
    def length(self) -> list[Any]:
        """Epochs, milestones and warm-up."""
        return [self.fields[name] for name in _LENGTH]

    @property
    def teachers(self) -> list[str]:
        teacher = self.fields["transfer.teacher"]
        return [] if teacher is None else [teacher] if isinstance(teacher, str) else list(teacher)

    def _counted(self, *, overridable: bool) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.fields.items()
            if name not in _ELSEWHERE and may_be_overridden(name) == overridable
        }


@dataclass(frozen=True)
class Match:
    """A run that has the recipe of a cell, with some overrides; whatever its teacher is.

    Attributes:
        run: the run.
        cell: the cell.
        overrides: fields with other values than in the recipe, that may be overridden.
        epochs: of the run's schedule.
        full_epochs: of the recipe's.
        teachers: what the run's recipe calls its teachers.
    """

    run: StoredRun
    cell: Cell
    overrides: Mapping[str, Any]
    epochs: int
    full_epochs: int
    teachers: tuple[str, ...]

    @property
    def key(self) -> str:
        """The same for runs with the same overrides."""
        return _text(self.overrides)


class Matcher:
    """Finds the cells of one table that runs belong to.

    Raises:
        InputError: a recipe of the table is not there, or not valid.
    """

    def __init__(self, table: PublishedTable) -> None:
        self.table = table
        self.recipes: dict[tuple[str, str], Recipe] = {}
        self._signatures: dict[tuple[str, str], Signature] = {}
        self._cells: dict[str, list[Cell]] = {}
        self._stems: dict[str, Cell] = {}
        for position, cell in table.cells.items():
            if (recipe := cell.full_recipe) is not None:
                self.recipes[position] = recipe
                self._signatures[position] = signature = Signature(plain(recipe))
                self._cells.setdefault(signature.key, []).append(cell)
                self._stems.setdefault(cell.stem or "", cell)
        self._known: dict[str, Signature] = {}

    def signature(self, run: StoredRun) -> Signature:
        """Of a run's recipe, made once for all runs that differ only in the seed."""
        recipe = dict(run.recipe)
        text = _text({name: value for name, value in recipe.items() if name != "seed"})
        if text not in self._known:
            self._known[text] = Signature(recipe)
        return self._known[text]

    def matches(self, run: StoredRun) -> list[Match]:
        """The cells whose recipe the run has; none for a run with a problem."""
        if run.problem:
            return []
        signature = self.signature(run)
        matches = []
        for cell in self._cells.get(signature.key, []):
            wanted = self._signatures[cell.position]
            if signature.length == _shortened(wanted, signature.epochs):
                overrides, teachers = signature.overrides(wanted), tuple(signature.teachers)
                matches.append(Match(run, cell, overrides, signature.epochs, wanted.epochs, teachers))
        return matches

    def teachers(self, cell: Cell) -> list[str]:
        """As a cell's recipe names them."""
        return self._signatures[cell.position].teachers

    def overrides(self, cell: Cell, overrides: Overrides) -> dict[str, Any]:
        """The fields that overrides give other values than a cell's recipe has."""
        return Signature(plain(overrides.apply(self.recipes[cell.position]))).overrides(self._signatures[cell.position])

    def difference(self, run: StoredRun) -> str:
        """Why a run whose name is that of a cell does not belong to it; empty for any other run."""
        cell = self._stems.get(re.sub(r"(-\d+ep)?(-[0-9a-f]{6})?(-seed\d+)?$", "", run.name))
        if cell is None:
            return ""
        if run.problem:
            return run.problem
        signature, wanted = self.signature(run), self._signatures[cell.position]
        now, then = signature.compared, wanted.compared
        differing = [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]
        if differing:
            parts = [f"{name} is {now.get(name)!r}, the recipe says {then.get(name)!r}" for name in differing[:2]]
            return "; ".join(parts) + (f"; and {len(differing) - 2} more" if len(differing) > 2 else "")
        length = _shortened(wanted, signature.epochs)
        if signature.length != length:
            fields = zip(_LENGTH, signature.length, length, strict=True)
            name, value, expected = next(field for field in fields if field[1] != field[2])
            return f"{name} is {value!r}; the recipe's, shortened to {signature.epochs} epochs, is {expected!r}"
        return ""


def digest(recipe: Recipe) -> str:
    """Eight digits, the same for recipes that differ at most in seed, teacher's path, and where and how they ran."""
    signature = Signature(plain(recipe))
    return sha256(_text([signature.compared, signature.overridable, signature.length]).encode()).hexdigest()[:8]


def run_name(cell: Cell, recipe: Recipe, overrides: Overrides, seed: int) -> str:
    """The name of the folder of a run: that of its recipe; with overrides, also epochs and a digest.

    Args:
        cell: that it fills.
        recipe: of the cell, as published.
        overrides: of the run.
        seed: of the run.
    """
    changed = overrides.apply(recipe)
    name = cell.stem or ""
    if changed.schedule.epochs != recipe.schedule.epochs:
        name += f"-{changed.schedule.epochs}ep"
    if overrides.fields:
        name += f"-{sha256(_text(Signature(plain(changed)).overridable).encode()).hexdigest()[:6]}"
    return f"{name}-seed{seed}"


def folder_name(teacher: str) -> str:
    """Of a path, its last part: the name of the run that it leads to."""
    return PurePath(teacher.replace("\\", "/").rstrip("/")).name


def _shortened(wanted: Signature, epochs: int) -> list[Any]:
    names = [name.removeprefix("schedule.") for name in _LENGTH]
    schedule = ScheduleRecipe(**dict(zip(names, wanted.length, strict=True)))
    if not 1 <= epochs <= schedule.epochs:
        return []
    schedule = shortened(schedule, epochs)
    return [getattr(schedule, name) for name in names]


@cache
def _defaults() -> dict[str, Any]:
    return flat(plain(Recipe()))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
