"""Reads run folders, including the lines of `metrics.jsonl`, without loading networks."""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any

from regard.errors import InputError, one_line
from regard.files import MAX_BYTES, MAX_RECIPE_BYTES, read_regular
from regard.strict_yaml import read_written_yaml

WEIGHTS, CHECKPOINTS = "last.safetensors", "checkpoints"
RUN_MARKERS = ("recipe.yaml", "metrics.jsonl", CHECKPOINTS)
"""A folder with one of these is a run."""

MEASURES = {"test_accuracy": "test accuracy", "test_box_ap": "test AP"}
"""The fields that compare epochs, in [0, 1], of classifiers and of detectors, and their labels."""

_GROUPS = ("data", "augmentation", "model", "optimizer", "schedule", "transfer")
# Types of the fields that are used without checking the rest of the recipe.
_TYPES: dict[str, tuple[type, ...]] = {
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
_MAX_EPOCHS = 2**31
_MAX_LINES = 100_000  # of metrics.jsonl
_SEED = re.compile(rb"^seed: (0|[1-9]\d{0,18})$", re.MULTILINE)
_PLACEHOLDER_SEED = 4_611_686_018_427_388_039  # replaces seeds, so that recipes that differ in the seed are equal


@dataclass(frozen=True)
class StoredRun:
    """A run, from its recipe, metrics and environment.

    Attributes:
        name: name of the folder.
        recipe: content of `recipe.yaml` as nested dicts, without defaults of fields that are newer than the file; empty
            if it cannot be read. Runs share these dicts; do not change them.
        row: last complete line of `metrics.jsonl`; empty before the first epoch has finished.
        images_per_second: median over the finished epochs; None if there are none.
        environment: content of `environment.json` without the class names; empty if it is missing.
        classes: number of classes; None if unknown.
        weights: whether `last.safetensors` exists.
        problem: what is wrong with the folder, in one line; empty if nothing is. An incomplete last line of the metrics
            is not a problem: that epoch counts as unfinished.
    """

    name: str
    recipe: Mapping[str, Any] = field(repr=False)
    row: Mapping[str, Any] = field(default_factory=dict, repr=False)
    images_per_second: float | None = None
    environment: Mapping[str, Any] = field(default_factory=dict, repr=False)
    classes: int | None = None
    weights: bool = False
    problem: str = ""

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return int(self.row.get("epoch", 0))

    @property
    def epochs_planned(self) -> int:
        """Number of epochs in the recipe; 0 if it has none."""
        return int(self.recipe.get("schedule", {}).get("epochs", 0))

    @property
    def seed(self) -> int:
        """The seed of the recipe; 0 if it has none."""
        return int(self.recipe.get("seed", 0))

    @property
    def teachers(self) -> list[str]:
        """The teachers that the recipe names."""
        teacher = self.recipe.get("transfer", {}).get("teacher") or []
        return [teacher] if isinstance(teacher, str) else list(teacher)

    @property
    def finished(self) -> bool:
        """Whether all epochs are finished, the weights exist and there is no problem."""
        return not self.problem and self.weights and 0 < self.epochs_planned <= self.epochs


def read_run(folder: Path) -> StoredRun | None:
    """Reads a run folder on this machine; None if the folder has no recipe, metrics or checkpoints."""
    with suppress(PermissionError):  # reported when the files are read
        if not any((folder / name).exists() for name in RUN_MARKERS):
            return None
    weights = os.path.isfile(folder / WEIGHTS)
    return parse_run(folder.name, lambda file: read_regular(folder / file, MAX_BYTES), weights=weights)


def parse_run(name: str, read: Callable[[str], bytes], *, weights: bool) -> StoredRun:
    """Parses a run from its files, which `read` returns by name; an error becomes the `problem` of the run."""

    def content(file: str, missing: bytes | None = None) -> bytes:
        try:
            return read(file)
        except FileNotFoundError:
            if missing is None:
                raise InputError(f"it has no {file}") from None
            return missing
        except OSError as error:
            raise InputError(f"{file} cannot be read ({error.strerror or one_line(error)})") from error

    try:
        recipe = _recipe(content("recipe.yaml"))
        rows = read_metrics(content("metrics.jsonl", b""))
        environment, classes = _environment(content("environment.json", b"{}"))
    except InputError as error:
        return StoredRun(name, {}, weights=weights, problem=str(error))
    rates = [rate for row in rows if isinstance(rate := row.get("images_per_second"), int | float) and rate == rate]
    return StoredRun(
        name=name,
        recipe=recipe,
        row=rows[-1] if rows else {},
        images_per_second=float(statistics.median(rates)) if rates else None,
        environment=environment,
        classes=classes,
        weights=weights,
    )


def _recipe(content: bytes) -> dict[str, Any]:
    """Parses a complete recipe; recipes that differ only in the seed are parsed once."""
    seeds = _SEED.findall(content)
    if len(seeds) == 1:
        shared = _parse_recipe(_SEED.sub(b"seed: %d" % _PLACEHOLDER_SEED, content))
        if shared["seed"] == _PLACEHOLDER_SEED and int(seeds[0]) < 2**63:
            return {**shared, "seed": int(seeds[0])}
    return _parse_recipe(content)


@lru_cache(maxsize=10_000)
def _parse_recipe(content: bytes) -> dict[str, Any]:
    """Parses a complete recipe into JSON types."""
    if len(content) > MAX_RECIPE_BYTES:
        raise InputError(f"recipe.yaml is larger than {MAX_RECIPE_BYTES:,} bytes")
    try:
        recipe = read_written_yaml(content)
    except InputError as error:
        raise InputError(f"recipe.yaml cannot be read ({one_line(error)[:200]})") from error
    if not isinstance(recipe, dict):
        raise InputError("recipe.yaml is cut short" if recipe is None else "recipe.yaml has no fields")
    if not content.endswith(b"\n") and not content.startswith(b"{"):
        raise InputError("recipe.yaml is incomplete (its last line has no end)")
    try:
        fields: dict[str, Any] = json.loads(json.dumps(recipe, default=str))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"recipe.yaml has content that no recipe has ({one_line(error)})") from error
    _check_recipe(fields)
    return fields


def _check_recipe(recipe: Mapping[str, Any]) -> None:
    """Raises InputError for an incomplete recipe, or fields of the wrong type."""
    for group in _GROUPS:
        if group in recipe and not isinstance(recipe[group], dict):
            raise InputError(f"recipe.yaml has no fields in {group}")
    epochs, seed = recipe.get("schedule", {}).get("epochs"), recipe.get("seed")
    for name, value, limit in (("schedule.epochs", epochs, _MAX_EPOCHS), ("seed", seed, 2**63)):
        if type(value) is not int or not 0 <= value < limit:
            raise InputError(f"recipe.yaml is incomplete: {name} is missing")
    for name, types in _TYPES.items():
        group, _, key = name.partition(".")
        value = recipe.get(group, {}).get(key, types[0]())
        valid = isinstance(value, types) and not isinstance(value, bool)
        if not valid or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
            raise InputError(f"recipe.yaml has {name} {value!r:.100}, which is invalid")


@lru_cache(maxsize=1000)
def _environment(content: bytes) -> tuple[dict[str, Any], int | None]:
    """Parses the environment of a run; returns it and the number of classes."""
    try:
        environment = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"environment.json is no JSON ({one_line(error)[:200]})") from error
    if not isinstance(environment, dict):
        raise InputError("environment.json has no fields")
    classes = environment.pop("classes", None)
    environment.pop("data", None)
    return environment, len(classes) if isinstance(classes, list) and classes else None


def read_metrics(content: bytes) -> list[dict[str, Any]]:
    """Parses the epochs in `metrics.jsonl`, without an incomplete last line. Raises InputError for other bad lines."""
    if content.count(b"\n") > _MAX_LINES:
        raise InputError(f"metrics.jsonl has more than {_MAX_LINES:,} lines; expected one line per epoch")
    try:
        *lines, last = content.decode().split("\n")
    except UnicodeDecodeError:
        raise InputError("metrics.jsonl is not UTF-8") from None
    rows = [_row(number, line) for number, line in enumerate(lines, start=1)]
    with suppress(InputError):
        rows += [_row(len(lines) + 1, last)] if last else []
    return rows


def _row(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_int=_parse_int)
    except (ValueError, RecursionError):
        raise InputError(f"line {number} of metrics.jsonl is no JSON") from None
    if not isinstance(row, dict) or type(row.get("epoch")) is not int or row["epoch"] < 1:
        raise InputError(f"line {number} of metrics.jsonl has no epoch")
    return row


def _parse_int(digits: str) -> int:
    """A 64-bit integer; floats, such as losses that diverge, may be infinite or NaN."""
    if not -(2**63) <= (number := int(digits)) < 2**63:
        raise ValueError(number)
    return number


def share(value: Any) -> float | None:
    """A number in [0, 1]; None for anything else."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1 else None


def measure_of(row: Mapping[str, Any]) -> str:
    """The field of `MEASURES` that an epoch has; the classifiers' field if it has none."""
    return next((name for name in MEASURES if name in row), "test_accuracy")
