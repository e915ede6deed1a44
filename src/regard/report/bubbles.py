"""Cost against accuracy: a bubble a network, as large as the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from regard.formatting import large
from regard.report.svg import INK, as_svg, canvas, ink_of, settings, short_name

_WIDEST = 48.0  # points, the diameter of the largest bubble
_SPREAD = 5.0  # from which ratio of the costs on their axis is logarithmic
_NAME = 11.0  # size of letters
_BESIDE = 3.0  # between bars
_LETTER = 0.56  # their width, of their size, on the safe side
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 460.0, 46.0, 10.0, 10.0, 42.0


@dataclass(frozen=True)
class Bubble:
    """What a network costs, and how well it does.

    Attributes:
        name: of the network.
        style: of its colour.
        x: its multiply-adds, above 0.
        y: its accuracy in percent, the mean over its runs.
        low: that of its least run.
        high: that of its best run.
        size: what the area of the bubble is proportional to, above 0.
    """

    name: str
    style: int
    x: float
    y: float
    low: float
    high: float
    size: float


@dataclass(frozen=True)
class _Box:
    """A rectangle on the figure, in points."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: _Box) -> float:
        across = min(self.right, other.right) - max(self.left, other.left)
        along = min(self.top, other.top) - max(self.bottom, other.bottom)
        return across * along if across > 0 and along > 0 else 0.0

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.top - self.bottom)


def diameters(sizes: Sequence[float]) -> list[float]:
    """Of bubbles whose areas are in proportion to the sizes, in points."""
    largest = max(sizes)
    return [_WIDEST * math.sqrt(size / largest) for size in sizes]


def bubbles(rows: Sequence[Bubble], caption: str, salt: str) -> str:
    """Accuracy by multiply-adds as SVG, see `figures.forest`; the larger bubbles lie below the smaller ones.

    Args:
        rows: at least one.
        caption: what the figure shows, for who cannot see it.
        salt: unlike that of any other figure on the page.
    """
    height = min(720.0, 300.0 + 10.0 * len(rows))
    wide, tall = _WIDTH - _LEFT - _RIGHT, height - _TOP - _BOTTOM
    logarithmic = max(row.x for row in rows) > _SPREAD * min(row.x for row in rows)
    costs = [math.log10(row.x) if logarithmic else row.x for row in rows]
    ends = [end for row in rows for end in (row.y, row.low, row.high)]
    left, right = _limits(costs, wide, 0.1 * max(map(abs, costs)))
    low, high = _limits(ends, tall, 1.0)
    across = [_LEFT + wide * (cost - left) / (right - left) for cost in costs]
    along = [_BOTTOM + tall * (row.y - low) / (high - low) for row in rows]
    sizes = diameters([row.size for row in rows])
    with settings(salt, grid="both"):
        figure, axes = canvas(_WIDTH, height, left=_LEFT, right=_RIGHT, top=_TOP, bottom=_BOTTOM)
        if logarithmic:
            axes.set_xscale("log")
            axes.set_xlim(10**left, 10**right)
            steps = (1.0, 2.0, 5.0) if right - left < 2.5 else (1.0,)
            axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.set_xlim(left, right)
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(_cost))
        axes.yaxis.set_major_formatter("{x:g}%")
        axes.set_xlabel("multiply-adds of one image")
        for i in sorted(range(len(rows)), key=lambda i: -sizes[i]):
            row = rows[i]
            look: dict[str, Any] = {"color": ink_of(rows[i].style)}
            round_: dict[str, Any] = {"marker": "o", "linestyle": "none", "clip_on": False, **look}
            axes.plot(row.x, row.y, markersize=sizes[i], alpha=0.25, markeredgewidth=0, **round_)
            axes.plot(row.x, row.y, markersize=sizes[i], markerfacecolor="none", markeredgewidth=1.4, **round_)
            if row.high > row.low:
                # Bars of networks that cost the same stand side by side.
                beside = across[i] + _BESIDE * sum(abs(across[j] - across[i]) < _BESIDE for j in range(i))
                bar: dict[str, Any] = {"linewidth": 1.6, "solid_capstyle": "butt", **look}
                sides = [(beside - _LEFT) / wide] * 2
                axes.plot(sides, [row.low, row.high], transform=axes.get_yaxis_transform(), **bar)
            axes.plot(row.x, row.y, markersize=6, **round_)
        centres = list(zip(across, along, strict=True))
        frame = _Box(2, _BOTTOM - 4, _WIDTH - 2, height - 2)
        for row, centre, size, box in zip(rows, centres, sizes, _labels(rows, centres, sizes, frame), strict=True):
            middle = ((box.left + box.right) / 2, (box.bottom + box.top) / 2)
            near = (min(max(centre[0], box.left), box.right), min(max(centre[1], box.bottom), box.top))
            place = [((x - _LEFT) / wide, (y - _BOTTOM) / tall) for x, y in (middle, near, centre)]
            if math.dist(near, centre) > size / 2 + 12:
                (_, (x1, y1), (x2, y2)) = place
                axes.plot([x1, x2], [y1, y2], color=INK, linewidth=0.6, transform=axes.transAxes, clip_on=False)
            x, y = place[0]
            words: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "clip_on": False}
            axes.text(x, y, short_name(row.name), va="center", fontsize=_NAME, **words)
        return as_svg(figure, caption)


def _limits(values: Sequence[float], length: float, alone: float) -> tuple[float, float]:
    """The ends of an axis so long, in points, on which no bubble is cut; `alone`: the room if all values are one."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(abs(high), 1):
        return low - alone, high + alone
    margin = _WIDEST / 2 + 8
    room = (high - low) * margin / (length - 2 * margin)
    return low - room, high + room


def _cost(value: float, _place: object) -> str:
    return large(round(value)).replace(".00 ", " ").replace(".0 ", " ") if value >= 1 else f"{value:g}"


def _labels(
    rows: Sequence[Bubble], centres: Sequence[tuple[float, float]], sizes: Sequence[float], frame: _Box
) -> list[_Box]:
    """Where the names go: near their bubbles, off other names and other bubbles as far as there is room."""
    around = [
        _Box(x - size / 2, y - size / 2, x + size / 2, y + size / 2)
        for (x, y), size in zip(centres, sizes, strict=True)
    ]
    dots = [_Box(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    placed: dict[int, _Box] = {}
    for i in sorted(range(len(rows)), key=lambda i: (-sizes[i], i)):
        width, height = _LETTER * _NAME * len(short_name(rows[i].name)), 1.35 * _NAME

        def badness(candidate: tuple[int, _Box], i: int = i) -> float:
            rank, box = candidate
            outside = box.area - box.overlap(frame)
            names = sum(box.overlap(other) for other in placed.values())
            others = sum(box.overlap(other) for j, other in enumerate(around) if j != i)
            centre = sum(box.overlap(other) for other in dots)
            return 20 * outside + 6 * names + others + 6 * centre + 25 * rank

        boxes = _candidates(centres[i], sizes[i] / 2, width, height)
        placed[i] = min(enumerate(boxes), key=badness)[1]
    return [placed[i] for i in range(len(rows))]


def _candidates(centre: tuple[float, float], radius: float, width: float, height: float) -> list[_Box]:
    """Places for a name around its bubble, the best ones first: beside, above and below, then farther away."""
    x, y = centre

    def box(left: float, bottom: float) -> _Box:
        return _Box(left, bottom, left + width, bottom + height)

    found = []
    for away in (radius + 4, radius + 22, radius + 44, radius + 70):
        slant = 0.75 * away
        found += [
            box(x + away, y - height / 2),
            box(x - away - width, y - height / 2),
            box(x - width / 2, y + away),
            box(x - width / 2, y - away - height),
            box(x + slant, y + slant),
            box(x + slant, y - slant - height),
            box(x - slant - width, y + slant),
            box(x - slant - width, y - slant - height),
        ]
    return found
