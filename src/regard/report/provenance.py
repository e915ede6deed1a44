"""How to repeat a report, and what its runs depended on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from regard.bias import Results
from regard.report.collect import RunResult
from regard.report.records import abbreviated
from regard.report.seeds import SeedGroup, teacher_folders
from regard.report.template import Repeat
from regard.terminal import command_line
from regard.training import WHERE, Recipe, field_arguments, flat, option_text, plain

# Defaults of `regard bias`.
_DEFAULTS = {"method": "gradcam", "layer": None, "target": "predicted", "threshold": 0.5, "margin": 0, "tolerance": 0}
_MOST_NAMES = 4  # owners of a value
_MOST_LETTERS = 160  # in a value

Facts = list[tuple[str, list[tuple[str, str]]]]


def repeats(groups: Sequence[SeedGroup]) -> list[Repeat]:
    """Recipe and commands of each network; networks that others use as a teacher or start from come first."""
    sources = {
        folder
        for group in groups
        for run in group.runs
        for source in run.recipe.sources
        for folder in teacher_folders(source, run.run.folder)
    }
    ordered = sorted(groups, key=lambda group: not any(run.run.folder.resolve() in sources for run in group.runs))
    return [_repeat(group) for group in ordered]


def recipe_yaml(recipe: Recipe) -> str:
    """The fields of the recipe that differ from the defaults, as YAML."""
    differing = _differing(plain(recipe), plain(Recipe()))
    return yaml.safe_dump(differing, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def environments(groups: Sequence[SeedGroup]) -> Facts:
    """The recorded environment of the runs without command, classes and images; see `merged_facts`."""
    return merged_facts(
        {
            run.name: {k: v for k, v in run.environment.items() if k not in ("classes", "command", "data")}
            for group in groups
            for run in group.runs
        }
    )


def merged_facts(facts: Mapping[str, Mapping[str, Any]]) -> Facts:
    """Merges facts, owner -> name -> value, to (name, [(value, owners)]), where owners is "" if all have the value."""
    by_name: dict[str, dict[str, list[str]]] = {}
    for owner, values in facts.items():
        for name, value in values.items():
            by_name.setdefault(name, {}).setdefault(option_text(value), []).append(owner)
    rows: Facts = []
    for name, owners_of_text in by_name.items():
        entries = []
        for text, owners in owners_of_text.items():
            text = text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…"
            entries.append((text, "" if len(owners) == len(facts) else ", ".join(abbreviated(owners, _MOST_NAMES))))
        rows.append((name, entries))
    return rows


def _repeat(group: SeedGroup) -> Repeat:
    file = f"{group.name.replace('/', '-')}.yaml"  # names are unique, those of folders need not be
    first_fields = flat(plain(group.first.recipe))
    commands = []
    for run in group.runs:
        fields = flat(plain(run.recipe)).items()
        changed = {name: value for name, value in fields if value != first_fields[name] and name not in WHERE}
        arguments = [*field_arguments(changed), "--run", _path(str(run.run.folder))]
        commands.append(["regard", "train", _path(file), *arguments])
    commands += [_bias_command(run, run.bias) for run in group.runs if run.bias is not None]
    recorded = [run.environment["command"] for run in group.runs if isinstance(run.environment.get("command"), str)]
    return Repeat(
        name=group.name,
        commands="\n".join(map(command_line, commands)),
        file=file,
        recipe=recipe_yaml(group.first.recipe),
        recorded="\n".join(recorded),
    )


def _bias_command(run: RunResult, results: Results) -> list[str]:
    """The command with the options recorded in the results; without a record, with equivalent options."""
    options = results.provenance.get("options")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        values = {name: getattr(results, name) for name in ("method", "target", "threshold", "margin", "tolerance")}
        values["layer"] = ",".join(results.layers) or None
        changed = {name: option_text(value) for name, value in values.items() if value != _DEFAULTS[name]}
        options = [word for name, text in changed.items() for word in (f"--{name}", text)]
    return ["regard", "bias", _path(str(run.run.folder)), *options]


def _path(path: str) -> str:
    """The path, with ./ if it would be parsed as an option."""
    return f"./{path}" if path.startswith("-") else path


def _differing(fields: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    differing = {}
    for name, value in fields.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict) and default:
            value, default = _differing(value, default), {}
        if value != default:
            differing[name] = value
    return differing
