"""Numbers and recipes in words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from regard.formatting import printable
from regard.training import Recipe, TransferRecipe

_ATTENTION = {"se": "SE", "shuffle": "shuffle"}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_METHODS = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGrad-CAM",
}
_TERMS = {
    "beta": "attention transfer",
    "alpha": "distillation",
    "full_activation": "full-activation transfer",
    "gradient": "gradient transfer",
    "symmetry": "symmetric gradients",
    "input_gradient": "short gradients",
}


def describe(recipe: Recipe, called: Callable[[str], str | None] = lambda teacher: None) -> str:
    """The network of a recipe in words: "wrn-16-1, attention transfer (beta 1000) from teacher".

    Args:
        recipe: of the run.
        called: what to call a teacher that the recipe names; None: by the last part of that name.
    """
    model = recipe.model
    words = model.name
    if options := _options(model.options):
        words += f" ({options})"
    if model.attention:
        words += f" with {_ATTENTION.get(model.attention, model.attention)} attention"
        start = f"{model.attention_start} start" if model.attention_start else ""
        details = [_options(model.attention_options), _gate(model.gate), _stages(model.attention_stages), start]
        if said := ", ".join(detail for detail in details if detail):
            words += f" ({said})"
    if model.pretrained:
        words += ", from pretrained weights"
    return words + _transfer(recipe.transfer, called)


def _transfer(transfer: TransferRecipe, called: Callable[[str], str | None]) -> str:
    parts = []
    for field, words in _TERMS.items():
        if not transfer.uses(field):
            continue
        details = [f"{field if field in ('alpha', 'beta') else 'weight'} {transfer.weight(field)}"]
        if field == "beta":
            details += ["max over channels"] if transfer.reduce == "max" else []
            details += [f"power {transfer.power:g}"] if transfer.power != 2 else []
            details += ["form of the paper"] if transfer.form == "paper" else []
        if field == "alpha":
            details.append(f"temperature {transfer.temperature:g}")
        parts.append(f"{words} ({', '.join(details)})")
    if not parts:
        return ""
    teachers = [called(teacher) or Path(teacher).name for teacher in transfer.teachers]
    return f", {listed(parts)}{f' from {listed(teachers)}' if teachers else ''}"


def _gate(gate: str) -> str:
    named = re.fullmatch(r"sub-attention(?:-(\d+))?", gate)
    if not named:
        return "" if gate == "sigmoid" else f"gate {gate}"
    order = int(named[1] or 1)
    return f"sub-attention gate of order {order}{', LSAS' if order == 1 else ''}"


def _stages(stages: Sequence[int] | None) -> str:
    if not stages:
        return ""
    return f"in stage{'s' if len(stages) > 1 else ''} {listed(str(stage) for stage in stages)}"


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def listed(words: Iterable[str]) -> str:
    """a; a and b; a, b and c."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def few(words: Sequence[str], most: int = 12) -> str:
    """As `listed`, but of many the first: a, b and 298 others."""
    words = list(words)
    return listed(words if len(words) <= most else [*words[: most - 1], f"{len(words) - most + 1} others"])


def shortened(names: Sequence[str]) -> list[str]:
    """Paths without the folder that all of them lie in, printable; names that are no paths stay as they are."""
    folder = os.path.commonprefix(names)
    folder = folder[: folder.rfind("/") + 1]
    if "=" in folder or any(len(name) == len(folder) for name in names):
        folder = ""
    return [printable(name[len(folder) :]) for name in names]


def gathered(reasons: Iterable[tuple[str, str]], verb: str) -> list[str]:
    """Sentences "names are <verb>: reason.", one for each reason, of pairs (name, reason)."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons:
        names.setdefault(reason, []).append(name)
    return [f"{listed(own)} {'is' if len(own) == 1 else 'are'} {verb}: {why}." for why, own in names.items()]


def number(count: int, what: str = "") -> str:
    """A small number as a word, and what it counts in the plural that fits."""
    word = _NUMBERS[count] if count < len(_NUMBERS) else f"{count:,}"
    return f"{word} {what}{'' if count == 1 else 's'}" if what else word


def method_name(method: str) -> str:
    """What a method of maps is called in prose."""
    return _METHODS.get(method, printable(method))
