"""The page of images explained: each as the network sees it, with the maps of its classes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regard.formatting import percent, printable
from regard.report.explanation import Explanation, Look, Refusal
from regard.report.overlay import FOCUS, colours, data_uri, draw
from regard.report.template import write_page
from regard.report.wording import listed, number

_IMAGES = 200  # shown, at most
_PICTURES = 1000  # shown, at most, unless one image has more
_SIDE = 256  # pixels of a picture
_SHOWN = {"spill": "spill", "miss": "miss", "iou": "IoU", "energy_inside": "energy inside", "auc": "AUC"}


@dataclass(frozen=True)
class _Cell:
    """The map of a class."""

    picture: str
    alt: str
    name: str
    probability: float
    verdict: str
    measured: list[str]


@dataclass(frozen=True)
class _Row:
    """An image, and its cells."""

    picture: str
    alt: str
    name: str
    predicted: str
    note: str
    cells: tuple[_Cell, ...]


class Page:
    """The page, to which images are added one by one; it holds the pictures of so many as a page can bear.

    Args:
        settings: of the explanations, as explain.json has them.
        outputs: how many the network has.
    """

    def __init__(self, settings: Mapping[str, Any], outputs: int) -> None:
        self._settings = settings
        self._asked = [printable(one["class"]) for one in settings["classes"]]
        self._top = min(settings["top"], outputs)
        self._room = min(_IMAGES, max(1, _PICTURES // (1 + (len(self._asked) or self._top))))
        self._rows: list[_Row] = []
        self._images = 0
        self._regions = False
        self._alike = True  # whether all classes of every image have one map

    def add(self, explanation: Explanation) -> None:
        """Adds an image, or only counts it if the page is full."""
        self._images += 1
        first, *others = [look.heat for look in explanation.looks]
        self._alike &= bool(others) and bool(first.any()) and all(np.array_equal(first, other) for other in others)
        if len(self._rows) < self._room:
            self._rows.append(_row(explanation, self._settings["threshold"]))
            self._regions |= explanation.region is not None

    def write(self, path: Path, refused: Sequence[Refusal]) -> None:
        """Writes the page.

        Args:
            path: of the file.
            refused: the images that were skipped.
        """
        network = printable(self._settings["network"]) or "the network"
        layer = f" at layer {self._settings['layer']}" if self._settings["layer"] else ""
        where = f"where {network} looks in {'it' if self._images == 1 else 'each'} for {self._which()}"
        notes = []
        if len(self._rows) < self._images:
            notes.append(
                f"This page shows the first {number(len(self._rows))} of {self._images:,} images; the pictures of all "
                "are beside it, their numbers in explain.json."
            )
        write_page(
            "explain.html",
            path,
            title=f"Where {network} looks",
            intro=f"{number(self._images, 'image').capitalize()}, and {where}: {self._settings['method']}{layer}.",
            notes=notes,
            rows=self._rows,
            regions=self._regions,
            alike=self._alike,
            explicit=bool(self._asked),
            threshold=self._settings["threshold"],
            ramp=", ".join(colours()),
            focus=FOCUS,
            refused=[printable(one.reason) for one in refused[:_IMAGES]],
            refusals=len(refused),
            settings=[(name, _said(value)) for name, value in self._settings.items() if value not in ("", [])],
        )

    def _which(self) -> str:
        if len(self._asked) > 1:
            return f"the classes {listed(self._asked)}"
        if self._asked:
            return f"class {self._asked[0]}"
        return "its likeliest class" if self._top == 1 else f"its {number(self._top)} likeliest classes"


def measured(look: Look) -> list[str]:
    """What the measures of a map come to, a word or two and a number each; nothing without a region."""
    if look.measures is None:
        return []
    said = [f"{name} {_two(look.measures[key])}" for key, name in _SHOWN.items()]
    return [*said, f"peak {'inside' if look.measures['pointing'] else 'outside'}"]


def _two(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _row(explanation: Explanation, threshold: float) -> _Row:
    name, pixels, region = printable(explanation.key), explanation.pixels, explanation.region
    cells = []
    for look in explanation.looks:
        label, numbers = printable(look.scored.name), measured(look)
        said = "; ".join(filter(None, [look.verdict, *numbers]))
        alt = f"{name}: map of class {label}{f', {said}' if said else ''}"
        shown = data_uri(draw(pixels, look.heat, region, threshold, size=_SIDE))
        cells.append(_Cell(shown, alt, label, look.scored.probability, look.verdict, numbers))
    predicted = ", ".join(f"{printable(one.name)} {percent(one.probability)}%" for one in explanation.predicted)
    alt = f"{name}, as the network sees it{', its region outlined' if region is not None else ''}"
    return _Row(data_uri(draw(pixels, None, region, size=_SIDE)), alt, name, predicted, explanation.note, tuple(cells))


def _said(value: Any) -> str:
    return printable(value) if isinstance(value, str) else json.dumps(value)
