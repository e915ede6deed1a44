"""How to repeat what a report shows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from regard.report.summary import Summary
from regard.training import Recipe, plain


@dataclass(frozen=True)
class Repeat:
    """A network, its recipe, and the commands that train and measure it from that recipe."""

    name: str
    file: str
    recipe: str
    commands: str


def repeats(rows: Sequence[Summary]) -> list[Repeat]:
    """How to repeat each row, teachers first."""
    taught_by = {Path(teacher).resolve() for row in rows for teacher in row.recipe.transfer.teachers}
    ordered = sorted(rows, key=lambda row: row.run.folder.resolve() not in taught_by)
    return [_repeat(row) for row in ordered]


def short(recipe: Recipe) -> str:
    """The recipe as YAML that says only what differs from the defaults."""
    differing = _differing(plain(recipe), plain(Recipe()))
    return yaml.safe_dump(differing, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def environments(rows: Sequence[Summary]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the runs depended on besides their recipes; see `by_value`."""
    return by_value(
        (row.name, {name: value for name, value in row.environment.items() if name != "classes"}) for row in rows
    )


def by_value(facts: Iterable[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What is said of several things, told once where it is the same of all.

    Args:
        facts: (whose, name -> value).

    Returns:
        (name, [(value, whose)]); whose is "" if it is everybody's.
    """
    found: dict[str, dict[str, list[str]]] = {}
    owners = []
    for owner, values in facts:
        owners.append(owner)
        for name, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value)
            found.setdefault(name, {}).setdefault(text, []).append(owner)
    return [
        (name, [(text, "" if len(whose) == len(owners) else ", ".join(whose)) for text, whose in values.items()])
        for name, values in found.items()
    ]


def _repeat(row: Summary) -> Repeat:
    folder = str(row.run.folder)
    file = f"{row.run.name}.yaml"
    commands = [["regard", "train", _path(file), "--run", folder]]
    if row.bias is not None:
        bias = row.bias
        settings = [] if bias.target == "predicted" else ["--target", bias.target]
        settings += [] if bias.threshold == 0.5 else ["--threshold", f"{bias.threshold:g}"]
        settings += ["--layer", bias.layer] if bias.layer else []
        commands.append(["regard", "bias", _path(folder), *settings])
    lines = "\n".join(shlex.join(command) for command in commands)
    return Repeat(row.name, file, short(row.recipe), lines)


def _path(path: str) -> str:
    """The path, so that it is not taken for an option."""
    return f"./{path}" if path.startswith("-") else path


def _differing(fields: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in fields.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict) and default:
            value, default = _differing(value, default), {}
        if value != default:
            found[name] = value
    return found
