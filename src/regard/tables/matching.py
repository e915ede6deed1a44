"""Matches runs with the cells of a table.

A run belongs to a cell if its recipe equals the cell's in every field that the table compares. Data, precision and
length of the schedule may be overridden; seed, device, compilation and similar fields are ignored.
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

# Technical fields, which are not compared.
_TECHNICAL = {
    *("channels_last", "compile", "deterministic", "sync_norms", "nonfinite", "schedule.accumulate"),
    *("transfer.precision", "transfer.fold", "data.unreadable"),
}
_MEMORY_OPTIONS = {"memory_limit"}  # of data sets
_MEASURED = {"data.mean", "data.std"}  # computed from the data
_LENGTH = ("schedule.epochs", "schedule.milestones", "schedule.warmup")
_NOT_COMPARED = {*WHERE, *_TECHNICAL, *_MEASURED, *_LENGTH, "seed", "transfer.teacher"}


class Signature:
    """The fields of a recipe that determine the cell and the overrides of a run.

    Args:
        recipe: nested fields; missing fields get their defaults.
    """

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        fields = flat(dict(recipe))
        groups = {name.rpartition(".")[0] for name in fields}
        missing = {name: value for name, value in _defaults().items() if name not in fields and name not in groups}
        self.fields = {**missing, **fields}
        name, options = self.fields["data.name"], self.fields["data.options"]
        with suppress(InputError, TypeError):  # the data set no longer exists
            defaults = data.all_options(name)
            self.fields["data.options"] = {
                option: value
                for option, value in options.items()
                if value != defaults.get(option) and option not in _MEMORY_OPTIONS
            }
        if name in data.names() and self.fields["data.size"] is None:
            self.fields["data.size"] = default_size(name, detector=self.fields["model.detector"] is not None)
        # The source of pretrained weights does not count, nor the start of attention that is the default for them.
        pretrained, start = self.fields["model.pretrained"], self.fields["model.attention_start"]
        if isinstance(pretrained, str) or start == ("identity" if pretrained else "published"):
            self.fields["model.attention_start"] = None
        self.fields["model.pretrained"] = bool(pretrained)

    @cached_property
    def compared(self) -> dict[str, Any]:
        """Fields that are equal in all runs of a cell."""
        return self._counted(overridable=False)

    @cached_property
    def overridable(self) -> dict[str, Any]:
        """Fields that are equal in all runs of a filled table, in addition to the schedule."""
        return self._counted(overridable=True)

    def overrides(self, recipe: Signature) -> dict[str, Any]:
        """Overridable fields whose values differ from another signature's."""
        return {name: value for name, value in self.overridable.items() if value != recipe.overridable.get(name)}

    @cached_property
    def key(self) -> str:
        """A text that is equal for recipes with equal compared fields."""
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
            if name not in _NOT_COMPARED and may_be_overridden(name) == overridable
        }


@dataclass(frozen=True)
class Match:
    """A run that has the recipe of a cell, possibly with overrides; its teacher is not checked.

    Attributes:
        run: the run.
        cell: the cell.
        overrides: overridable fields whose values differ from the recipe's.
        epochs: epochs of the run's schedule.
        full_epochs: epochs of the cell's recipe.
        teachers: teachers in the run's recipe.
    """

    run: StoredRun
    cell: Cell
    overrides: Mapping[str, Any]
    epochs: int
    full_epochs: int
    teachers: tuple[str, ...]

    @property
    def key(self) -> str:
        """A text that is equal for runs with equal overrides."""
        return _text(self.overrides)


class Matcher:
    """Finds the cells of one table that runs belong to.

    Raises:
        InputError: a recipe of the table does not exist or is not valid.
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
        self._cache: dict[str, Signature] = {}

    def signature(self, run: StoredRun) -> Signature:
        """The signature of a run, cached for runs that differ only in the seed."""
        recipe = dict(run.recipe)
        text = _text({name: value for name, value in recipe.items() if name != "seed"})
        if text not in self._cache:
            self._cache[text] = Signature(recipe)
        return self._cache[text]

    def matches(self, run: StoredRun) -> list[Match]:
        """One match per cell whose recipe the run has; none for a run with a problem."""
        if run.problem:
            return []
        signature = self.signature(run)
        matches = []
        for cell in self._cells.get(signature.key, []):
            published = self._signatures[cell.position]
            if signature.length == _shortened(published, signature.epochs):
                overrides, teachers = signature.overrides(published), tuple(signature.teachers)
                matches.append(Match(run, cell, overrides, signature.epochs, published.epochs, teachers))
        return matches

    def teachers(self, cell: Cell) -> list[str]:
        """The teachers in a cell's recipe."""
        return self._signatures[cell.position].teachers

    def overrides(self, cell: Cell, overrides: Overrides) -> dict[str, Any]:
        """The overridden fields whose values differ from a cell's recipe."""
        return Signature(plain(overrides.apply(self.recipes[cell.position]))).overrides(self._signatures[cell.position])

    def difference(self, run: StoredRun) -> str:
        """Why a run that is named after a cell does not belong to it; empty for other runs."""
        cell = self._stems.get(re.sub(r"(-\d+ep)?(-[0-9a-f]{6})?(-seed\d+)?$", "", run.name))
        if cell is None:
            return ""
        if run.problem:
            return run.problem
        signature, published = self.signature(run), self._signatures[cell.position]
        values, expected = signature.compared, published.compared
        differing = [name for name in sorted({*values, *expected}) if values.get(name) != expected.get(name)]
        if differing:
            parts = [f"{name} is {values.get(name)!r}, the recipe has {expected.get(name)!r}" for name in differing[:2]]
            return "; ".join(parts) + (f"; and {len(differing) - 2} more" if len(differing) > 2 else "")
        length = _shortened(published, signature.epochs)
        if signature.length != length:
            fields = zip(_LENGTH, signature.length, length, strict=True)
            name, value, shortened_value = next(field for field in fields if field[1] != field[2])
            return f"{name} is {value!r}; the recipe's, shortened to {signature.epochs} epochs, is {shortened_value!r}"
        return ""


def digest(recipe: Recipe) -> str:
    """Eight digits that are equal for recipes that differ only in seed, teacher's path, and where and how they ran."""
    signature = Signature(plain(recipe))
    return sha256(_text([signature.compared, signature.overridable, signature.length]).encode()).hexdigest()[:8]


def run_name(cell: Cell, recipe: Recipe, overrides: Overrides, seed: int) -> str:
    """The folder name of a run: the cell's stem, with epochs and a digest for overrides, and the seed.

    Args:
        cell: the cell that the run fills.
        recipe: published recipe of the cell.
        overrides: overrides of the run.
        seed: seed of the run.
    """
    changed = overrides.apply(recipe)
    name = cell.stem or ""
    if changed.schedule.epochs != recipe.schedule.epochs:
        name += f"-{changed.schedule.epochs}ep"
    if overrides.fields:
        name += f"-{sha256(_text(Signature(plain(changed)).overridable).encode()).hexdigest()[:6]}"
    return f"{name}-seed{seed}"


def folder_name(teacher: str) -> str:
    """The last part of the path of a teacher: the name of its run."""
    return PurePath(teacher.replace("\\", "/").rstrip("/")).name


def _shortened(published: Signature, epochs: int) -> list[Any]:
    """The length of the published schedule, shortened to `epochs`; empty if it has fewer."""
    names = [name.removeprefix("schedule.") for name in _LENGTH]
    schedule = ScheduleRecipe(**dict(zip(names, published.length, strict=True)))
    if not 1 <= epochs <= schedule.epochs:
        return []
    schedule = shortened(schedule, epochs)
    return [getattr(schedule, name) for name in names]


@cache
def _defaults() -> dict[str, Any]:
    return flat(plain(Recipe()))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
