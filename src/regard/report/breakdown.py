"""What a bias report comes to in parts: right and wrong predictions, sizes of region, classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean

from regard.bias import Results, Summary
from regard.bias.results import SIZES
from regard.formatting import NONE, percent
from regard.report.measure_words import RATES, measure_of

_ALL = 40  # classes: as many are all shown
_SHOWN = 20  # of more
LEAST_IMAGES = 10  # of a class that is shown
_TONES = {"position_bias": "miss", "range_bias": "past", "energy_inside": "hit", "accuracy": "hit"}
_DARKEST = 60  # percent of the tone


@dataclass(frozen=True)
class Part:
    """Some of the images of a report; `by_prediction`: those predicted right, or wrong."""

    name: str
    summary: Summary
    by_prediction: bool = False


@dataclass(frozen=True)
class ClassRow:
    """A class, and what each report makes of its images.

    Attributes:
        name: of the class.
        images: of it.
        summaries: one a report.
    """

    name: str
    images: int
    summaries: tuple[Summary, ...]


@dataclass(frozen=True)
class Classes:
    """Some or all classes of a set.

    Attributes:
        rows: those shown.
        total: those that have images.
        eligible: those that have enough of them to be shown.
    """

    rows: tuple[ClassRow, ...]
    total: int
    eligible: int


@dataclass(frozen=True)
class Cell:
    """A number of a grid, and how dark it is, in percent."""

    text: str
    shade: float


@dataclass(frozen=True)
class Grid:
    """A measure of classes (down) and networks (across).

    Attributes:
        title: what it is of.
        tone: the colour of its shades.
        cells: a row a class, a cell a network.
    """

    title: str
    tone: str
    cells: tuple[tuple[Cell, ...], ...]


def parts(report: Results) -> list[Part]:
    """All images; if scored, those predicted right and wrong; those with a region of each size. Empty parts are left
    out."""
    found = [Part("all", report.overall)]
    if report.overall.accuracy.n:
        found += [Part("predicted right", report.right, True), Part("predicted wrong", report.wrong, True)]
    found += [Part(f"{name} regions", summary) for name, summary in report.by_size.items()]
    return [part for part in found if part.summary.images]


def sizes() -> str:
    """What the sizes are: "small is below 1/16, medium is below 1/4, large the rest"."""
    names = list(SIZES)
    said = [f"{name} is below {Fraction(SIZES[name][1]).limit_denominator(1000)}" for name in names[:-1]]
    return f"{', '.join(said)}, {names[-1]} the rest"


def classes(reports: Sequence[Results]) -> Classes:
    """The classes with at least 10 images: all of them by number of images, if there are up to 40; of more, the 20 most
    biased.

    The most biased are those where the lower end of the interval of position bias is highest, in the mean over the
    reports: so few images do not lead by chance alone, and no report is made to look worse than the others. Of those
    level, the ones with less energy inside. A class without comparable images is not among them.
    """
    first, *others = [report.by_class for report in reports]
    rows = [
        ClassRow(name, summary.images, (summary, *(other[name] for other in others)))
        for name, summary in first.items()
        if summary.images and all(name in other for other in others)
    ]
    enough = [row for row in rows if row.images >= LEAST_IMAGES]
    if len(enough) <= _ALL:
        return Classes(tuple(sorted(enough, key=lambda row: -row.images)), len(rows), len(enough))
    compared = [row for row in enough if all(summary.position_bias.n for summary in row.summaries)]
    return Classes(tuple(sorted(compared, key=_unbiased)[:_SHOWN]), len(rows), len(enough))


def grids(found: Classes) -> list[Grid]:
    """The classes as grids, one a measure; a measure that no class has is left out."""
    drawn = []
    for name, tone in _TONES.items():
        numbers = [[_number(summary, name) for summary in row.summaries] for row in found.rows]
        known = [number for row in numbers for number in row if not math.isnan(number)]
        if not known:
            continue
        low, span = min(known), max(known) - min(known)
        rate = name in RATES
        title = measure_of(name).name.capitalize() + (", %" if rate else "")
        cells = tuple(
            tuple(
                Cell(NONE, 0)
                if math.isnan(number)
                else Cell(
                    percent(number) if rate else f"{number:.2f}", round(_DARKEST * (number - low) / (span or 1), 1)
                )
                for number in row
            )
            for row in numbers
        )
        drawn.append(Grid(title, tone, cells))
    return drawn


def _number(summary: Summary, name: str) -> float:
    return summary.estimates()[name].value


def _unbiased(row: ClassRow) -> tuple[float, float]:
    low = fmean(summary.position_bias.low for summary in row.summaries)
    return -low, fmean(summary.means["energy_inside"].value for summary in row.summaries)
