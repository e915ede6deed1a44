"""Runs as their folders say them, without opening the network."""

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
from regard.metrics_file import read_metrics
from regard.strict_yaml import read_written_yaml

WEIGHTS, CHECKPOINTS = "last.safetensors", "checkpoints"
MAKES_A_RUN = ("recipe.yaml", "metrics.jsonl", CHECKPOINTS)
"""What a folder is a run with, if it has one of them."""

_PARTS = ("data", "augmentation", "model", "optimizer", "schedule", "transfer")
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
_SEED = re.compile(rb"^seed: (0|[1-9]\d{0,18})$", re.MULTILINE)
_ANY_SEED = 4_611_686_018_427_388_039  # in place of the seed, where recipes are compared


@dataclass(frozen=True)
class StoredRun:
    """What is known of a run folder from its recipe, metrics and environment.

    Attributes:
        name: of its folder.
        recipe: `recipe.yaml` as it is, fields of fields; fields that were added since are not in it. Empty if broken.
            Runs share their parts; do not change them.
        row: the last whole line of `metrics.jsonl`; empty before the first epoch is finished.
        images_per_second: the median over the finished epochs; None if there are none.
        environment: `environment.json`, without the names of the classes; empty where it is missing.
        classes: how many classes there are; None where that is not said.
        weights: whether `last.safetensors` is there.
        problem: what is wrong with the folder, in a line; empty if nothing is. A torn last line of metrics is no
            problem: the epoch counts as not finished.
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
        """How many are finished."""
        return int(self.row.get("epoch", 0))

    @property
    def epochs_asked(self) -> int:
        """How many its recipe asks for; 0 if it does not say."""
        return int(self.recipe.get("schedule", {}).get("epochs", 0))

    @property
    def seed(self) -> int:
        return int(self.recipe.get("seed", 0))

    @property
    def teachers(self) -> list[str]:
        """As its recipe calls them."""
        teacher = self.recipe.get("transfer", {}).get("teacher") or []
        return [teacher] if isinstance(teacher, str) else list(teacher)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, and the weights are there, and nothing is wrong."""
        return not self.problem and self.weights and 0 < self.epochs_asked <= self.epochs


def read_run(folder: Path) -> StoredRun | None:
    """A run folder on this machine; None if it is none: it has neither a recipe, metrics nor checkpoints."""
    with suppress(PermissionError):  # which is said when its files are read
        if not any((folder / name).exists() for name in MAKES_A_RUN):
            return None
    weights = os.path.isfile(folder / WEIGHTS)
    return parse_run(folder.name, lambda file: read_regular(folder / file, MOST_BYTES), weights=weights)


def parse_run(name: str, read: Callable[[str], bytes], *, weights: bool) -> StoredRun:
    """A run, from the contents of its files, by name; what is wrong with them is the problem of the run."""

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
    """A whole recipe; those that are the same but for the seed are parsed once."""
    seeds = _SEED.findall(content)
    if len(seeds) == 1:
        shared = _parsed(_SEED.sub(b"seed: %d" % _ANY_SEED, content))
        if shared["seed"] == _ANY_SEED and int(seeds[0]) < 2**63:
            return {**shared, "seed": int(seeds[0])}
    return _parsed(content)


@lru_cache(maxsize=10_000)
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
        fields: dict[str, Any] = json.loads(json.dumps(recipe, default=str))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"recipe.yaml holds what no recipe does ({one_line(error)})") from error
    _check(fields)
    return fields


def _check(recipe: Mapping[str, Any]) -> None:
    """Raises InputError for a recipe that is not whole, or whose fields have other types where they are read as they
    are.
    """
    for part in _PARTS:
        if part in recipe and not isinstance(recipe[part], dict):
            raise InputError(f"recipe.yaml holds no fields in {part}")
    epochs, seed = recipe.get("schedule", {}).get("epochs"), recipe.get("seed")
    for name, value, most in (("schedule.epochs", epochs, _MOST_EPOCHS), ("seed", seed, 2**63)):
        if type(value) is not int or not 0 <= value < most:
            raise InputError(f"recipe.yaml is not whole: it says no {name}")
    for name, kinds in _KINDS.items():
        part, _, key = name.partition(".")
        value = recipe.get(part, {}).get(key, kinds[0]())
        wrong = not isinstance(value, kinds) or isinstance(value, bool)
        if wrong or (isinstance(value, list) and not all(isinstance(one, str) for one in value)):
            raise InputError(f"recipe.yaml says {name} {value!r:.100}, which it cannot be")


@lru_cache(maxsize=1000)
def _environment(content: bytes) -> tuple[dict[str, Any], int | None]:
    """What a run depended on besides its recipe, and the number of its classes."""
    try:
        about = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"environment.json is no JSON ({one_line(error)[:200]})") from error
    if not isinstance(about, dict):
        raise InputError("environment.json holds no fields with values")
    classes = about.pop("classes", None)
    about.pop("data", None)
    return about, len(classes) if isinstance(classes, list) and classes else None
