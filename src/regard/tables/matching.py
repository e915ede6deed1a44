"""Which cell of a table a run belongs to: its recipe decides, not its name.

A run fills a cell if its recipe is the cell's in all that the table compares. It may have other data, a shortened
schedule and another precision, which is its setting; and it may have run anywhere, compiled or not, with any seed.
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
from regard.tables.published import Cell, PublishedTable
from regard.tables.setting import WITHIN, Setting, shortened
from regard.training import SIZE, WHERE, Recipe, ScheduleRecipe, flat, plain

# How the same is computed.
_TECHNICAL = {
    *("channels_last", "compile", "deterministic", "sync_norms", "nonfinite", "schedule.accumulate"),
    *("transfer.precision", "transfer.fold", "data.unreadable"),
}
# Options of data sets that say how much room they may take.
_ROOM = {"memory_limit"}
# Measured on the data.
_MEASURED = {"data.mean", "data.std"}
_LENGTH = ("schedule.epochs", "schedule.milestones", "schedule.warmup")
_ELSEWHERE = {*WHERE, *_TECHNICAL, *_MEASURED, *_LENGTH, "seed", "transfer.teacher"}


class Facts:
    """A recipe taken apart.

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
        if name in data.names() and data.is_streamed(name) and self.fields["data.size"] is None:
            self.fields["data.size"] = SIZE

    @cached_property
    def compared(self) -> dict[str, Any]:
        """What has to be the same in two runs of one cell."""
        fields = self.fields.items()
        return {name: value for name, value in fields if not self._is_setting(name) and name not in _ELSEWHERE}

    @cached_property
    def setting(self) -> dict[str, Any]:
        """What has to be the same in all runs of one table, besides the length."""
        fields = self.fields.items()
        return {name: value for name, value in fields if self._is_setting(name) and name not in _ELSEWHERE}

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

    @staticmethod
    def _is_setting(name: str) -> bool:
        return name.startswith("data.") or name in WITHIN


@dataclass(frozen=True)
class Match:
    """A run that has the recipe of a cell, in some setting; its teacher has not been looked at.

    Attributes:
        run: the run.
        cell: the cell.
        overrides: the fields of its setting that are other than the recipe's.
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
    def others(self) -> str:
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
        self._facts: dict[tuple[str, str], Facts] = {}
        self._cells: dict[str, list[Cell]] = {}
        self._stems: dict[str, Cell] = {}
        for place, cell in table.cells.items():
            recipe = cell.full_recipe
            if recipe is None:
                continue
            self.recipes[place] = recipe
            self._facts[place] = Facts(plain(recipe))
            self._cells.setdefault(self._facts[place].key, []).append(cell)
            self._stems.setdefault(cell.stem or "", cell)
        self._known: dict[str, Facts] = {}
        self._overrides: dict[tuple[str, str, str], dict[str, Any]] = {}

    def facts(self, run: StoredRun) -> Facts:
        """Of a run's recipe, taken apart once for all runs that differ only in the seed and the teacher."""
        recipe = dict(run.recipe)
        text = _text({name: value for name, value in recipe.items() if name != "seed"})
        if text not in self._known:
            self._known[text] = Facts(recipe)
        return self._known[text]

    def matches(self, run: StoredRun) -> list[Match]:
        """The cells whose recipe the run has; none for a run with a problem."""
        if run.problem:
            return []
        facts = self.facts(run)
        found = []
        for cell in self._cells.get(facts.key, []):
            wanted = self._facts[cell.row, cell.column]
            if facts.length != _shortened(wanted, facts.epochs):
                continue
            differing = {name: value for name, value in facts.setting.items() if value != wanted.setting.get(name)}
            found.append(Match(run, cell, differing, facts.epochs, wanted.epochs, tuple(facts.teachers)))
        return found

    def teachers(self, cell: Cell) -> list[str]:
        """As a cell's recipe names them."""
        return self._facts[cell.row, cell.column].teachers

    def overrides(self, cell: Cell, setting: Setting) -> dict[str, Any]:
        """The fields of a setting that are other than those of a cell's recipe."""
        place = cell.row, cell.column
        key = (*place, _text(setting.overrides))
        if key not in self._overrides:
            there = Facts(plain(setting.of(self.recipes[place]))).setting
            wanted = self._facts[place].setting
            self._overrides[key] = {name: value for name, value in there.items() if value != wanted.get(name)}
        return self._overrides[key]

    def difference(self, run: StoredRun) -> str:
        """Why a run whose name or source is that of a cell does not belong to it; empty for any other run."""
        if run.problem:
            return run.problem if self._named(run) else ""
        facts = self.facts(run)
        cell = self._named(run)
        if cell is None:
            return ""
        wanted = self._facts[cell.row, cell.column]
        now, then = facts.compared, wanted.compared
        differing = [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]
        if differing:
            words = [f"{name} is {now.get(name)!r}, the recipe says {then.get(name)!r}" for name in differing[:2]]
            return "; ".join(words) + (f"; and {len(differing) - 2} more" if len(differing) > 2 else "")
        length = _shortened(wanted, facts.epochs)
        if facts.length != length:
            places = zip(_LENGTH, facts.length, length, strict=True)
            name, value, expected = next(place for place in places if place[1] != place[2])
            return f"{name} is {value!r}; the recipe's, shortened to {facts.epochs} epochs, is {expected!r}"
        return ""

    def _named(self, run: StoredRun) -> Cell | None:
        return self._stems.get(re.sub(r"(-\d+ep)?(-[0-9a-f]{6})?(-seed\d+)?$", "", run.name))


def digest(recipe: Recipe) -> str:
    """Eight digits that are the same for recipes that differ at most in seed, teacher's path, place and technique."""
    facts = Facts(plain(recipe))
    return sha256(_text([facts.compared, facts.setting, facts.length]).encode()).hexdigest()[:8]


def run_name(cell: Cell, recipe: Recipe, setting: Setting, seed: int) -> str:
    """The name of the folder of a run: that of its recipe; where the setting is another, with epochs and a digest.

    Args:
        cell: that it fills.
        recipe: of the cell, as published.
        setting: of the run.
        seed: of the run.
    """
    changed = setting.of(recipe)
    name = cell.stem or ""
    if changed.schedule.epochs != recipe.schedule.epochs:
        name += f"-{changed.schedule.epochs}ep"
    if setting.overrides:
        name += f"-{sha256(_text(Facts(plain(changed)).setting).encode()).hexdigest()[:6]}"
    return f"{name}-seed{seed}"


def folder_name(teacher: str) -> str:
    """Of a path, its last part: the name of the run that it leads to."""
    return PurePath(teacher.replace("\\", "/").rstrip("/")).name


def _shortened(wanted: Facts, epochs: int) -> list[Any]:
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
