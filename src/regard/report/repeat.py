"""How to repeat what a report shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from regard.bias import Results
from regard.report.seed_groups import SeedGroup, teacher_places, told
from regard.report.summary import Summary
from regard.report.wording import few
from regard.terminal import command_line
from regard.training import WHERE, Recipe, field_arguments, flat, option_text, plain

# What `regard bias` takes where an option is not given.
_DEFAULTS = {"method": "gradcam", "layer": None, "target": "predicted", "threshold": 0.5, "margin": 0, "tolerance": 0}


@dataclass(frozen=True)
class Repeat:
    """A network, its recipe, the commands that train and measure it from that recipe, and those that were run.

    Attributes:
        name: of the network.
        file: where the commands have the recipe.
        recipe: as YAML; that of the first seed.
        commands: a line each.
        recorded: what `environment.json` says the runs were started with, a line each; empty where nothing does.
    """

    name: str
    file: str
    recipe: str
    commands: str
    recorded: str = ""


def repeats(groups: Sequence[SeedGroup]) -> list[Repeat]:
    """How to repeat each network, teachers first."""
    taught_by = {
        place
        for group in groups
        for row in group.rows
        for teacher in row.recipe.transfer.teachers
        for place in teacher_places(teacher, row.run.folder)
    }
    ordered = sorted(groups, key=lambda group: not any(row.run.folder.resolve() in taught_by for row in group.rows))
    return [_repeat(group) for group in ordered]


def short(recipe: Recipe) -> str:
    """The recipe as YAML that says only what differs from the defaults."""
    differing = _differing(plain(recipe), plain(Recipe()))
    return yaml.safe_dump(differing, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def environments(groups: Sequence[SeedGroup]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the runs depended on besides their recipes, but for the command, classes and images; see `by_value`.

    A value is said of a network if all its runs have it, else of these.
    """
    rows = {row.name: row for group in groups for row in group.rows}
    left_out = ("classes", "command", "data")
    found = _owners(
        (name, {fact: value for fact, value in row.environment.items() if fact not in left_out})
        for name, row in rows.items()
    )
    return [
        (fact, [(text, few(told(groups, [rows[name] for name in whose]), 20)) for text, whose in values])
        for fact, values in found
    ]


def by_value(facts: Iterable[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What is said of several things, told once where it is the same of all.

    Args:
        facts: (whose, name -> value).

    Returns:
        (name, [(value, whose)]); whose is "" if it is everybody's.
    """
    return [(name, [(text, ", ".join(whose)) for text, whose in values]) for name, values in _owners(facts)]


def _owners(facts: Iterable[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """As `by_value`, with a list of whose it is, which is empty if it is everybody's."""
    found: dict[str, dict[str, list[str]]] = {}
    owners = []
    for owner, values in facts:
        owners.append(owner)
        for name, value in values.items():
            text = option_text(value)
            found.setdefault(name, {}).setdefault(text, []).append(owner)
    return [
        (name, [(text, [] if len(whose) == len(owners) else whose) for text, whose in values.items()])
        for name, values in found.items()
    ]


def _repeat(group: SeedGroup) -> Repeat:
    file = f"{group.first.run.name}.yaml"
    first = flat(plain(group.first.recipe))
    commands = []
    for row in group.rows:
        own = flat(plain(row.recipe)).items()
        other = {name: value for name, value in own if value != first[name] and name not in WHERE}
        run = _path(str(row.run.folder))
        commands.append(["regard", "train", _path(file), *field_arguments(other), "--run", run])
    commands += [_bias_command(row, row.bias) for row in group.rows if row.bias is not None]
    recorded = [row.environment["command"] for row in group.rows if isinstance(row.environment.get("command"), str)]
    return Repeat(
        group.name, file, short(group.first.recipe), "\n".join(map(command_line, commands)), "\n".join(recorded)
    )


def _bias_command(row: Summary, bias: Results) -> list[str]:
    """With the options that were given, as the report records them, else those that say the same."""
    said = bias.provenance.get("options")
    if not isinstance(said, list) or not all(isinstance(option, str) for option in said):
        settings = {name: getattr(bias, name) for name in ("method", "target", "threshold", "margin", "tolerance")}
        settings["layer"] = ",".join(bias.layers) or None
        given = {name: option_text(value) for name, value in settings.items() if value != _DEFAULTS[name]}
        said = [word for name, text in given.items() for word in (f"--{name}", text)]
    return ["regard", "bias", _path(str(row.run.folder)), *said]


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
