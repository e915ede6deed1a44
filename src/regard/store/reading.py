"""From the files of a run folder to what is known of the run."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass, field
from typing import Any

import yaml

from regard.errors import one_line
from regard.store.stored import StoredRun

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PARTS = ("data", "augmentation", "model", "optimizer", "schedule", "transfer")
_SEED = re.compile(rb"^seed: (0|[1-9]\d{0,18})$", re.MULTILINE)
Content = bytes | OSError | None
"""Of a file; None: there is none."""


class _BrokenError(Exception):
    """What is wrong with a run folder."""


@dataclass(frozen=True, eq=False)
class SharedRecipe:
    """What the recipes of runs have in common that differ in their seed.

    Attributes:
        fields: all but the seed.
        storable: whether JSON gives them back as they are, which YAML's dates and numbered keys it does not.
    """

    fields: dict[str, Any]
    storable: bool = True


@dataclass(frozen=True)
class Reading:
    """A run, and what its recipe shares with others; None where it has no recipe that can be read."""

    run: StoredRun
    recipe: SharedRecipe | None = None
    environment: dict[str, Any] = field(default_factory=dict)


class Reader:
    """Reads runs. Recipes that are the same but for the seed are parsed once; so are environments."""

    def __init__(self) -> None:
        self._recipes: dict[bytes, SharedRecipe] = {}
        self._environments: dict[bytes, tuple[dict[str, Any], int | None]] = {}

    def read(self, name: str, recipe: Content, metrics: Content, environment: Content, *, weights: bool) -> Reading:
        """A run, from its three files; what is wrong with them is the problem of the run."""
        try:
            if recipe is None:
                raise _BrokenError("it has no recipe.yaml")
            shared, seed = self._recipe(_content("recipe.yaml", recipe))
            rows = _rows(b"" if metrics is None else _content("metrics.jsonl", metrics))
            about, classes = self._environment(
                b"{}" if environment is None else _content("environment.json", environment)
            )
        except _BrokenError as broken:
            return Reading(StoredRun(name, {}, weights=weights, problem=str(broken)))
        run = StoredRun(
            name=name,
            recipe={**shared.fields, "seed": seed},
            row=rows[-1] if rows else {},
            images_per_second=_median([row.get("images_per_second") for row in rows]),
            environment=about,
            classes=classes,
            weights=weights,
        )
        return Reading(run, shared, about)

    def _recipe(self, content: bytes) -> tuple[SharedRecipe, int]:
        said = _SEED.findall(content)
        without = _SEED.sub(b"seed:", content) if len(said) == 1 else content
        shared = self._recipes.get(without)
        if shared is not None and len(said) == 1:
            return shared, int(said[0])
        recipe = _parsed(content)
        seed = recipe.pop("seed")
        shared = SharedRecipe(recipe, _storable(recipe))
        if len(said) == 1 and seed == int(said[0]):
            self._recipes[without] = shared
        return shared, seed

    def _environment(self, content: bytes) -> tuple[dict[str, Any], int | None]:
        known = self._environments.get(content)
        if known is None:
            about = _json(content, "environment.json")
            classes = about.pop("classes", None)
            about.pop("data", None)
            known = about, len(classes) if isinstance(classes, list) and classes else None
            self._environments[content] = known
        return known


def _content(file: str, content: Content) -> bytes:
    if isinstance(content, OSError):
        raise _BrokenError(f"{file} cannot be read ({content.strerror or one_line(content)})")
    return content or b""


def _parsed(content: bytes) -> dict[str, Any]:
    """A whole recipe."""
    try:
        recipe = yaml.load(content, _LOADER)  # a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _BrokenError(f"recipe.yaml is no YAML ({one_line(error)[:200]})") from error
    if not isinstance(recipe, dict):
        raise _BrokenError("recipe.yaml is cut short" if recipe is None else "recipe.yaml holds no fields with values")
    if not content.endswith(b"\n") and not content.startswith(b"{"):
        raise _BrokenError("recipe.yaml is cut short (its last line has no end)")
    for part in _PARTS:
        if part in recipe and not isinstance(recipe[part], dict):
            raise _BrokenError(f"recipe.yaml holds no fields in {part}")
    schedule = recipe.get("schedule", {})
    for name, value in (("schedule.epochs", schedule.get("epochs")), ("seed", recipe.get("seed"))):
        if not isinstance(value, int) or isinstance(value, bool):
            raise _BrokenError(f"recipe.yaml is not whole: it says no {name}")
    return recipe


def _storable(fields: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(json.dumps(fields)) == fields)
    except (TypeError, ValueError, RecursionError):
        return False


def _rows(content: bytes) -> list[dict[str, Any]]:
    """The lines of the finished epochs, without a last one that was cut short."""
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            if number < len(lines):
                raise _BrokenError(f"line {number} of metrics.jsonl is no JSON") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or type(row.get("epoch")) is not int:
            raise _BrokenError(f"line {number} of metrics.jsonl is not that of an epoch")
    return rows


def _json(content: bytes, file: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _BrokenError(f"{file} is no JSON ({one_line(error)[:200]})") from error
    if not isinstance(found, dict):
        raise _BrokenError(f"{file} holds no fields with values")
    return found


def _median(values: list[Any]) -> float | None:
    numbers = [float(value) for value in values if isinstance(value, int | float) and value == value]
    return statistics.median(numbers) if numbers else None
