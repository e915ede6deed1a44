"""Names and small numbers as words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from regard.formatting import printable

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_METHODS = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGrad-CAM",
}


def listed(words: Iterable[str]) -> str:
    """a; a and b; a, b and c."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def shortened(names: Sequence[str]) -> list[str]:
    """Paths without the folder that all of them lie in, printable; names that are no paths stay as they are."""
    folder = os.path.commonprefix(names)
    folder = folder[: folder.rfind("/") + 1]
    if "=" in folder or any(len(name) == len(folder) for name in names):
        folder = ""
    return [printable(name[len(folder) :]) for name in names]


def number(count: int, what: str = "") -> str:
    """A small number as a word, and what it counts in the plural that fits."""
    word = _NUMBERS[count] if count < len(_NUMBERS) else f"{count:,}"
    return f"{word} {what}{'' if count == 1 else 's'}" if what else word


def method_name(method: str) -> str:
    """What a method of maps is called in prose."""
    return _METHODS.get(method, printable(method))
