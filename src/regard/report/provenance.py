"""How to repeat a report, and what its runs depended on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from regard.bias import Results
from regard.report.collect import RunResult
from regard.report.records import first
from regard.report.seeds import SeedGroup, teacher_folders
from regard.report.template import Repeat
from regard.terminal import command_line
from regard.training import WHERE, Recipe, field_arguments, flat, option_text, plain

# What `regard bias` takes where an option is not given.
_DEFAULTS = {"method": "gradcam", "layer": None, "target": "predicted", "threshold": 0.5, "margin": 0, "tolerance": 0}
_NAMED = 4  # runs, where only some have a value
_LETTERS = 160  # of a value

Facts = list[tuple[str, list[tuple[str, str]]]]


def repeats(groups: Sequence[SeedGroup]) -> list[Repeat]:
    """For each network its recipe, the commands that train and measure it from there, and those recorded; teachers,
    and what others start from, first.
    """
    sources = {
        folder
        for group in groups
        for run in group.runs
        for source in run.recipe.sources
        for folder in teacher_folders(source, run.run.folder)
    }
    ordered = sorted(groups, key=lambda group: not any(run.run.folder.resolve() in sources for run in group.runs))
    return [_repeat(group) for group in ordered]


def short(recipe: Recipe) -> str:
    """The recipe as YAML that says only what differs from the defaults."""
    differing = _differing(plain(recipe), plain(Recipe()))
    return yaml.safe_dump(differing, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def environments(groups: Sequence[SeedGroup]) -> Facts:
    """What the runs depended on besides their recipes, but for the command, classes and images; see `shared`."""
    return shared(
        {
            run.name: {k: v for k, v in run.environment.items() if k not in ("classes", "command", "data")}
            for group in groups
            for run in group.runs
        }
    )


def shared(facts: Mapping[str, Mapping[str, Any]]) -> Facts:
    """Facts of several things, once where they are the same for all.

    Args:
        facts: thing -> name -> value.

    Returns:
        (name, [(value, the things that have it)]); "" for all of them. Of long values, the beginning.
    """
    owners: dict[str, dict[str, list[str]]] = {}
    for thing, values in facts.items():
        for name, value in values.items():
            owners.setdefault(name, {}).setdefault(option_text(value), []).append(thing)
    rows: Facts = []
    for name, texts in owners.items():
        whose = ["" if len(things) == len(facts) else ", ".join(first(things, _NAMED)) for things in texts.values()]
        rows.append((name, list(zip(map(_start, texts), whose, strict=True))))
    return rows


def _start(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…"


def _repeat(group: SeedGroup) -> Repeat:
    file = f"{group.first.run.name}.yaml"
    first = flat(plain(group.first.recipe))
    commands = []
    for run in group.runs:
        fields = flat(plain(run.recipe)).items()
        other = {name: value for name, value in fields if value != first[name] and name not in WHERE}
        commands.append(["regard", "train", _path(file), *field_arguments(other), "--run", _path(str(run.run.folder))])
    commands += [_bias_command(run, run.bias) for run in group.runs if run.bias is not None]
    recorded = [run.environment["command"] for run in group.runs if isinstance(run.environment.get("command"), str)]
    return Repeat(
        name=group.name,
        commands="\n".join(map(command_line, commands)),
        file=file,
        recipe=short(group.first.recipe),
        recorded="\n".join(recorded),
    )


def _bias_command(run: RunResult, results: Results) -> list[str]:
    """With the options that its results record; without a record, with those that have the same effect."""
    options = results.provenance.get("options")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        values = {name: getattr(results, name) for name in ("method", "target", "threshold", "margin", "tolerance")}
        values["layer"] = ",".join(results.layers) or None
        given = {name: option_text(value) for name, value in values.items() if value != _DEFAULTS[name]}
        options = [word for name, text in given.items() for word in (f"--{name}", text)]
    return ["regard", "bias", _path(str(run.run.folder)), *options]


def _path(path: str) -> str:
    """The path, so that it is not taken for an option."""
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
