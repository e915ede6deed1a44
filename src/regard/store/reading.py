"""From the files of a run folder to what is known of the run."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from regard.errors import InputError, one_line
from regard.metrics_file import read_metrics
from regard.store.stored import StoredRun
from regard.strict_yaml import read_written_yaml

_PARTS = ("data", "augmentation", "model", "optimizer", "schedule", "transfer")
_SEED = re.compile(rb"^seed: (0|[1-9]\d{0,18})$", re.MULTILINE)
# What fields hold that are read without the whole recipe being checked.
_KINDS: dict[str, tuple[type, ...]] = {
    "data.name": (str,),
    "data.folder": (str, NoneType),
    "data.size": (int, NoneType),
    "data.train_images": (int, NoneType),
    "data.options": (dict,),
    "model.name": (str,),
    "model.options": (dict,),
    "model.attention_options": (dict,),
    "optimizer.options": (dict,),
    "transfer.teacher": (str, list, NoneType),
}
_LARGEST_RECIPE = 2**18  # bytes
_MOST_EPOCHS = 2**31
Content = bytes | OSError | None
"""Of a file; None: there is none."""


@dataclass(frozen=True)
class Reading:
    """A run, and its recipe but for the seed, which it shares with others; None where it has none that can be read."""

    run: StoredRun
    recipe: dict[str, Any] | None = None
    environment: dict[str, Any] = field(default_factory=dict)


class Reader:
    """Reads runs. Recipes that are the same but for the seed are parsed once; so are environments."""

    def __init__(self) -> None:
        self._recipes: dict[bytes, dict[str, Any]] = {}
        self._environments: dict[bytes, tuple[dict[str, Any], int | None]] = {}

    def read(self, name: str, recipe: Content, metrics: Content, environment: Content, *, weights: bool) -> Reading:
        """A run, from its three files; what is wrong with them is the problem of the run."""
        try:
            if recipe is None:
                raise InputError("it has no recipe.yaml")
            shared, seed = self._recipe(_content("recipe.yaml", recipe))
            rows = read_metrics(b"" if metrics is None else _content("metrics.jsonl", metrics))
            about, classes = self._environment(
                b"{}" if environment is None else _content("environment.json", environment)
            )
        except InputError as broken:
            return Reading(StoredRun(name, {}, weights=weights, problem=str(broken)))
        run = StoredRun(
            name=name,
            recipe={**shared, "seed": seed},
            row=rows[-1] if rows else {},
            images_per_second=_median([row.get("images_per_second") for row in rows]),
            environment=about,
            classes=classes,
            weights=weights,
        )
        return Reading(run, shared, about)

    def _recipe(self, content: bytes) -> tuple[dict[str, Any], int]:
        said = _SEED.findall(content)
        without = _SEED.sub(b"seed:", content) if len(said) == 1 else content
        shared = self._recipes.get(without)
        if shared is not None and len(said) == 1:
            return shared, int(said[0])
        shared = _parsed(content)
        seed = shared.pop("seed")
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
        raise InputError(f"{file} cannot be read ({content.strerror or one_line(content)})")
    return content or b""


def _parsed(content: bytes) -> dict[str, Any]:
    """A whole recipe, as JSON knows it: keys are text."""
    if len(content) > _LARGEST_RECIPE:
        raise InputError(f"recipe.yaml is larger than {_LARGEST_RECIPE:,} bytes")
    try:
        recipe = read_written_yaml(content)
    except InputError as error:
        raise InputError(f"recipe.yaml cannot be read ({one_line(error)[:200]})") from error
    if not isinstance(recipe, dict):
        raise InputError("recipe.yaml is cut short" if recipe is None else "recipe.yaml holds no fields with values")
    if not content.endswith(b"\n") and not content.startswith(b"{"):
        raise InputError("recipe.yaml is cut short (its last line has no end)")
    try:
        recipe = json.loads(json.dumps(recipe, default=str))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"recipe.yaml holds what no recipe does ({one_line(error)})") from error
    check_recipe(recipe)
    fields: dict[str, Any] = recipe
    return fields


def check_recipe(recipe: Mapping[str, Any]) -> None:
    """Raises InputError for a recipe that is not whole, or has fields of other types where one looks without reading
    all of it.
    """
    for part in _PARTS:
        if part in recipe and not isinstance(recipe[part], dict):
            raise InputError(f"recipe.yaml holds no fields in {part}")
    schedule = recipe.get("schedule", {})
    for name, value, most in (
        ("schedule.epochs", schedule.get("epochs"), _MOST_EPOCHS),
        ("seed", recipe.get("seed"), 2**63),
    ):
        if type(value) is not int or not 0 <= value < most:
            raise InputError(f"recipe.yaml is not whole: it says no {name}")
    for name, kinds in _KINDS.items():
        part, _, field = name.partition(".")
        value = recipe.get(part, {}).get(field, kinds[0]())
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise InputError(f"recipe.yaml says {name} {value!r:.100}, which it cannot be")
        if isinstance(value, list) and not all(isinstance(one, str) for one in value):
            raise InputError(f"recipe.yaml says {name} {value!r:.100}, which it cannot be")


def _json(content: bytes, file: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is no JSON ({one_line(error)[:200]})") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} holds no fields with values")
    return found


def _median(values: list[Any]) -> float | None:
    numbers = [float(value) for value in values if isinstance(value, int | float) and value == value]
    return statistics.median(numbers) if numbers else None
