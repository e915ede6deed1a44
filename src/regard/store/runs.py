"""Reads run folders, and the lines of `metrics.jsonl`, without loading the network."""

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
from regard.files import MOST_BYTES, read_regular
from regard.strict_yaml import read_written_yaml

WEIGHTS, CHECKPOINTS = "last.safetensors", "checkpoints"
MAKES_A_RUN = ("recipe.yaml", "metrics.jsonl", CHECKPOINTS)
"""A folder with one of these is a run."""

MEASURES = {"test_accuracy": "test accuracy", "test_box_ap": "test AP"}
"""The fields by which epochs are compared, of classifiers and of detectors, in [0, 1], and what they are called."""

_PARTS = ("data", "augmentation", "model", "optimizer", "schedule", "transfer")
# Types of the fields that are read without checking the whole recipe.
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
_MOST_LINES = 100_000  # of metrics.jsonl
_SEED = re.compile(rb"^seed: (0|[1-9]\d{0,18})$", re.MULTILINE)
_ANY_SEED = 4_611_686_018_427_388_039  # replaces the seed when recipes are compared


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
        """Teachers named in the recipe."""
        teacher = self.recipe.get("transfer", {}).get("teacher") or []
        return [teacher] if isinstance(teacher, str) else list(teacher)

    @property
    def finished(self) -> bool:
        """Whether all epochs are finished, the weights exist and there is no problem."""
        return not self.problem and self.weights and 0 < self.epochs_planned <= self.epochs


def read_run(folder: Path) -> StoredRun | None:
    """Reads a run folder on this machine; None if the folder has no recipe, metrics or checkpoints."""
    with suppress(PermissionError):  # reported when its files are read
        if not any((folder / name).exists() for name in MAKES_A_RUN):
            return None
    weights = os.path.isfile(folder / WEIGHTS)
    return parse_run(folder.name, lambda file: read_regular(folder / file, MOST_BYTES), weights=weights)


def parse_run(name: str, read: Callable[[str], bytes], *, weights: bool) -> StoredRun:
    """Parses a run from its files; an error becomes the `problem` of the run."""

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
    except InputError as broken:
        return StoredRun(name, {}, weights=weights, problem=str(broken))
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
        shared = _parsed(_SEED.sub(b"seed: %d" % _ANY_SEED, content))
        if shared["seed"] == _ANY_SEED and int(seeds[0]) < 2**63:
            return {**shared, "seed": int(seeds[0])}
    return _parsed(content)


@lru_cache(maxsize=10_000)
def _parsed(content: bytes) -> dict[str, Any]:
    """Parses a complete recipe into JSON types: keys are strings."""
    if len(content) > _LARGEST_RECIPE:
        raise InputError(f"recipe.yaml is larger than {_LARGEST_RECIPE:,} bytes")
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
    _check(fields)
    return fields


def _check(recipe: Mapping[str, Any]) -> None:
    """Raises InputError for an incomplete recipe, or fields of the wrong type."""
    for part in _PARTS:
        if part in recipe and not isinstance(recipe[part], dict):
            raise InputError(f"recipe.yaml holds no fields in {part}")
    epochs, seed = recipe.get("schedule", {}).get("epochs"), recipe.get("seed")
    for name, value, most in (("schedule.epochs", epochs, _MOST_EPOCHS), ("seed", seed, 2**63)):
        if type(value) is not int or not 0 <= value < most:
            raise InputError(f"recipe.yaml is incomplete: {name} is missing")
    for name, kinds in _KINDS.items():
        part, _, key = name.partition(".")
        value = recipe.get(part, {}).get(key, kinds[0]())
        wrong = not isinstance(value, kinds) or isinstance(value, bool)
        if wrong or (isinstance(value, list) and not all(isinstance(one, str) for one in value)):
            raise InputError(f"recipe.yaml has {name} {value!r:.100}, which is invalid")


@lru_cache(maxsize=1000)
def _environment(content: bytes) -> tuple[dict[str, Any], int | None]:
    """Parses the environment of a run, and the number of its classes."""
    try:
        about = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"environment.json is no JSON ({one_line(error)[:200]})") from error
    if not isinstance(about, dict):
        raise InputError("environment.json has no fields")
    classes = about.pop("classes", None)
    about.pop("data", None)
    return about, len(classes) if isinstance(classes, list) and classes else None


def read_metrics(content: bytes) -> list[dict[str, Any]]:
    """The finished epochs in `metrics.jsonl`. An incomplete last line does not count.

    Raises:
        InputError: another line is no JSON, or not that of an epoch, or there are too many.
    """
    if content.count(b"\n") > _MOST_LINES:
        raise InputError(f"metrics.jsonl has more than {_MOST_LINES:,} lines, and a run fewer epochs")
    try:
        *lines, rest = content.decode().split("\n")
    except UnicodeDecodeError:
        raise InputError("metrics.jsonl is not UTF-8") from None
    rows = [_row(number, line) for number, line in enumerate(lines, start=1)]
    with suppress(InputError):
        rows += [_row(len(lines) + 1, rest)] if rest else []
    return rows


def _row(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_int=_in_range)
    except (ValueError, RecursionError):
        raise InputError(f"line {number} of metrics.jsonl is no JSON") from None
    if not isinstance(row, dict) or type(row.get("epoch")) is not int or row["epoch"] < 1:
        raise InputError(f"line {number} of metrics.jsonl is not that of an epoch")
    return row


def _in_range(digits: str) -> int:
    if not -(2**63) <= (number := int(digits)) < 2**63:  # floats may be infinite or NaN, as losses are that diverge
        raise ValueError(number)
    return number


def measure_of(row: Mapping[str, Any]) -> str:
    """The one of `MEASURES` that an epoch has; that of classifiers if it has none."""
    return next((name for name in MEASURES if name in row), "test_accuracy")
