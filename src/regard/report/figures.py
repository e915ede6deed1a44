"""Figures as SVG that takes its colours from the page: `currentColor` for ink, a CSS variable for each network."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = 8  # of networks: the first for the reference alone, the others in turn, each time with other dashes
_DASHES: tuple[Any, ...] = ("solid", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)))

# Drawn in these, and replaced by what the page decides.
_INK, _FAINT = "#0a0b0c", "#0d0e0f"
_NETWORK = "#a1b2{:02x}"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters
    "font.size": 12,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "text.parse_math": False,
    "text.usetex": False,
}
_POINTS = 72  # an inch


@dataclass(frozen=True)
class Series:
    """A network's numbers, one an epoch."""

    style: int
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """A network's rate and its interval, in percent, or its mean and interval; without one, all three are the same."""

    name: str
    style: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Histogram:
    """How a network's numbers, from 0 to 1, are spread.

    Attributes:
        name: of the network.
        style: of its colour.
        shares: of the numbers in bins of one width from 0 to 1, which add up to 1.
        mean: of the numbers.
        chance: the mean that would be had by chance; None: not known.
    """

    name: str
    style: int
    shares: Sequence[float]
    mean: float
    chance: float | None = None


@dataclass(frozen=True)
class Profile:
    """Numbers of a row of channels.

    Attributes:
        style: of its colour.
        y: a number a channel, or a run of neighbouring channels.
        apart: how far each is from that of the first profile.
        spread: how densely the numbers of all channels lie, at even steps from one end of the scale to the other.
    """

    style: int
    y: Sequence[float]
    apart: Sequence[float]
    spread: Sequence[float]


def forest(bars: Sequence[Bar], caption: str, salt: str, unit: str = "%") -> str:
    """Rates with their intervals, one below the other, on one scale.

    Args:
        bars: at least one.
        caption: what the figure shows, for who cannot see it.
        salt: unlike that of any other figure on the page.
        unit: "%" for percentages, "" for numbers from 0 to 1.
    """
    whole, decimals = (100, 1) if unit == "%" else (1, 3)
    height = 38 * len(bars) + 34
    with _style(salt, grid="x"):
        width, edge = 360, 16  # the edge is for the outermost numbers of the axis; names begin at the figure's own
        figure, axes = _canvas(width, height, left=edge, right=edge, top=4, bottom=24)
        low, high = min(bar.low for bar in bars), max(bar.high for bar in bars)
        room = max(0.06 * (high - low), 0.005 * whole)
        axes.set_xlim(max(low - room, -0.005 * whole), min(high + room, 1.005 * whole))
        axes.set_ylim(len(bars) - 0.32, -0.68)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(f"{{x:g}}{unit}")
        line, beyond = axes.get_yaxis_transform(), (edge - 2) / (width - 2 * edge)
        for place, bar in enumerate(bars):
            colour = _NETWORK.format(colour_of(bar.style))
            axes.plot([bar.low, bar.high], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot(bar.value, place, "o", color=colour, markersize=8, clip_on=False)
            axes.text(-beyond, place - 0.28, _short(bar.name), transform=line, va="bottom")
            axes.text(1 + beyond, place - 0.28, f"{bar.value:.{decimals}f}", transform=line, va="bottom", ha="right")
        return _svg(figure, caption)


def histograms(rows: Sequence[Histogram], caption: str, salt: str) -> str:
    """Spreads of numbers from 0 to 1, one below the other, each as high as its highest bin; see `forest`."""
    tall, top, bottom, edge = 64, 4, 24, 16
    height = tall * len(rows) + top + bottom
    with _style(salt, grid="x"):
        figure, axes = _canvas(360, height, left=edge, right=edge, top=top, bottom=bottom)
        axes.set_xlim(0, 1)
        axes.set_ylim(len(rows), 0)
        axes.set_yticks([])
        axes.xaxis.set_major_formatter("{x:g}")
        line, beyond = axes.get_yaxis_transform(), (edge - 2) / (360 - 2 * edge)
        for place, row in enumerate(rows):
            colour, foot = _NETWORK.format(colour_of(row.style)), place + 0.98
            edges = [i / len(row.shares) for i in range(len(row.shares) + 1)]
            highest = max(row.shares)
            axes.stairs(
                [foot - 0.62 * share / highest for share in row.shares], edges, baseline=foot, fill=True, color=colour
            )
            axes.plot([0, 1], [foot, foot], color=_FAINT, linewidth=0.8)
            if row.chance is not None:
                axes.plot([row.chance] * 2, [foot, place + 0.3], color=_INK, linewidth=1.5, linestyle=(0, (1.5, 1.5)))
            axes.text(-beyond, place + 0.26, _short(row.name), transform=line, va="bottom")
            axes.text(1 + beyond, place + 0.26, f"{row.mean:.3f}", transform=line, va="bottom", ha="right")
        return _svg(figure, caption)


def curves(series: Sequence[Series], unit: str, caption: str, salt: str) -> str:
    """Numbers by epoch; see `forest`.

    Args:
        series: at least one with a number in it.
        unit: behind the numbers of the vertical axis: "%" or "".
    """
    with _style(salt, grid="y"):
        figure, axes = _canvas(420, 280, left=38, right=8, top=8, bottom=38)
        for one in series:
            points = [(x, y) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y)]
            if not points:
                continue
            x, y = zip(*points, strict=True)
            colour = _NETWORK.format(colour_of(one.style))
            axes.plot(x, y, color=colour, linewidth=2, linestyle=_dashes(one.style))
            axes.plot(x[-1], y[-1], "o", color=colour, markersize=6)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(f"{{x:g}}{unit}")
        return _svg(figure, caption)


def profiles(
    rows: Sequence[Profile], scale: tuple[float, float], apart: float, unit: str, caption: str, salt: str
) -> str:
    """Numbers by channel, how densely they lie, and below how far they are from those of the first; see `forest`.

    Args:
        rows: at least one; the first lies over the others.
        scale: its ends, for the numbers.
        apart: how far the scale of the differences reaches to either side.
        unit: what the channels are counted in.
    """
    width, height, left, right, top, bottom, gap = 420.0, 320.0, 48.0, 8.0, 8.0, 38.0, 14.0
    beside, below = 76.0, 96.0  # of the density, and of the differences
    above = height - top - bottom - below - gap
    across = width - left - right - beside - gap
    low, high = scale
    with _style(salt, grid="y"):
        figure, axes = _canvas(
            width, height, left=left, right=right + beside + gap, top=top, bottom=bottom + below + gap
        )
        density = figure.add_axes(
            ((width - right - beside) / width, (bottom + below + gap) / height, beside / width, above / height)
        )
        differences = figure.add_axes((left / width, bottom / height, across / width, below / height))
        count = len(rows[0].y)
        place = range(1, count + 1)
        for one in reversed(rows):
            look: dict[str, Any] = {
                "color": _NETWORK.format(colour_of(one.style)),
                "linewidth": 1.4 if one.style else 2.2,
                "marker": "o" if count == 1 else "",
            }
            axes.plot(place, one.y, **look)
            differences.plot(place, one.apart, **look)
            steps = [low + (high - low) * i / (len(one.spread) - 1) for i in range(len(one.spread))]
            density.plot(one.spread, steps, color=look["color"], linewidth=look["linewidth"])
        for each in (density, differences):
            each.patch.set_alpha(0)
        room = 0.03 * (high - low)
        for each in (axes, density):
            each.set_ylim(low - room, high + room)
            each.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        differences.set_ylim(-1.05 * apart, 1.05 * apart)
        differences.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10], symmetric=True))
        for each in (axes, differences):
            each.set_xlim(0.5, count + 0.5)
            each.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
            each.yaxis.set_major_formatter("{x:.3g}")
        axes.set_xticklabels([])
        differences.set_xlabel(unit)
        density.set_xlim(left=0)
        density.set_xticks([])
        density.set_yticklabels([])
        density.set_xlabel("density")
        return _svg(figure, caption)


def depths(series: Sequence[Series], chance: float, caption: str, salt: str) -> str:
    """Shares from 0 to 1 by depth, and as a dotted line what chance gives; see `forest`."""
    with _style(salt, grid="y"):
        figure, axes = _canvas(420, 240, left=38, right=12, top=8, bottom=38)
        deepest = max(max(one.x, default=1) for one in series)
        for one in series:
            colour = _NETWORK.format(colour_of(one.style))
            dashes = _dashes(one.style)
            axes.plot(one.x, one.y, color=colour, linewidth=2, linestyle=dashes, marker="o", markersize=6)
        axes.plot([0.5, deepest + 0.5], [chance, chance], color=_INK, linewidth=1.2, linestyle=(0, (1, 2)))
        axes.set_xlim(0.5, deepest + 0.5)
        known = [y for one in series for y in one.y if math.isfinite(y)]
        axes.set_ylim(0, min(1.02, 1.1 * max([*known, chance, 0.05])))
        axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("depth")
        return _svg(figure, caption)


def columns(bars: Sequence[Bar], level: float, top: float, caption: str, salt: str) -> str:
    """Percentages with their intervals side by side, numbered from 1, and a dashed line at a level; see `forest`.

    Args:
        bars: at least one; NaN leaves a gap.
        level: of the dashed line, in percent.
        top: of the scale, in percent.
    """
    with _style(salt, grid="y"):
        figure, axes = _canvas(420, 200, left=44, right=8, top=8, bottom=38)
        for place, bar in enumerate(bars, 1):
            if math.isfinite(bar.value):
                axes.bar(place, bar.value, width=0.72, color=_NETWORK.format(colour_of(bar.style)), alpha=0.55)
                ends = [max(0.0, bar.low), min(100.0, bar.high)]
                axes.plot([place, place], ends, color=_INK, linewidth=1.2, solid_capstyle="butt")
        axes.plot([0.5, len(bars) + 0.5], [level, level], color=_INK, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.set_xlim(0.4, len(bars) + 0.6)
        axes.set_ylim(0, top)
        axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter("{x:g}%")
        axes.set_xlabel("group")
        return _svg(figure, caption)


def colour_of(style: int) -> int:
    """Which of the page's colours a network has."""
    return style and 1 + (style - 1) % (COLOURS - 1)


def dashes_of(style: int) -> str:
    """The dashes of a network's line, as SVG writes them for a line 2 wide."""
    pattern = _dashes(style)
    return "none" if pattern == "solid" else " ".join(f"{2 * length:g}" for length in pattern[1])


def _short(name: str) -> str:
    """The name, if it fits above a bar."""
    return name if len(name) <= 38 else f"{name[:37]}…"


def _dashes(style: int) -> Any:
    return _DASHES[max(0, style - 1) // (COLOURS - 1) % len(_DASHES)]


def _style(salt: str, grid: str) -> AbstractContextManager[None]:
    """Matplotlib's settings for one figure."""
    return matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt, "axes.grid.axis": grid})


def _canvas(
    width: float, height: float, *, left: float, right: float, top: float, bottom: float
) -> tuple[Figure, Axes]:
    """A figure with one set of axes, in points; no state is shared with pyplot."""
    figure = Figure(figsize=(width / _POINTS, height / _POINTS))
    figure.patch.set_alpha(0)
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(box)
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Figure, caption: str) -> str:
    """The figure as an element of a page: no prolog, no metadata, no style of its own."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None, "matplotlib gives every SVG a viewBox"
    text = f'<svg {view[0]} role="img" aria-label="{escape(caption)}">{text[text.index(">") + 1 :]}'
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in every figure, and used by none
    text = text.replace(_INK, "currentColor").replace(_FAINT, "var(--line)")
    for i in range(COLOURS):
        text = text.replace(_NETWORK.format(i), f"var(--net-{i})")
    return re.sub(r"\n\s*", "\n", text).strip()
