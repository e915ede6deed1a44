"""Figures of networks, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.ticker import MaxNLocator

from regard.report.svg import (
    FAINT,
    INK,
    as_svg,
    canvas,
    ink_of,
    line_style,
    settings,
    short_name,
)


@dataclass(frozen=True)
class Series:
    """A network's numbers, one an epoch, and where there are several runs of it, the band in which theirs lie."""

    style: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Bar:
    """A network's rate and its interval, in percent, or its mean and interval; without one, all three are the same.

    `points` are the numbers of single runs, which are marked besides.
    """

    name: str
    style: int
    value: float
    low: float
    high: float
    points: Sequence[float] = field(default=(), kw_only=True)


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
    with settings(salt, grid="x"):
        width, edge = 360, 16  # the edge is for the outermost numbers of the axis; names begin at the figure's own
        figure, axes = canvas(width, height, left=edge, right=edge, top=4, bottom=24)
        ends = [end for bar in bars for end in (bar.low, bar.high, *bar.points)]
        low, high = min(ends), max(ends)
        room = max(0.06 * (high - low), 0.005 * whole)
        axes.set_xlim(max(low - room, -0.005 * whole), min(high + room, 1.005 * whole))
        axes.set_ylim(len(bars) - 0.32, -0.68)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(f"{{x:g}}{unit}")
        line, beyond = axes.get_yaxis_transform(), (edge - 2) / (width - 2 * edge)
        for place, bar in enumerate(bars):
            colour = ink_of(bar.style)
            axes.plot([bar.low, bar.high], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot(bar.value, place, "o", color=colour, markersize=8, clip_on=False)
            if bar.points:
                axes.plot(bar.points, [place] * len(bar.points), "|", color=INK, markersize=11, clip_on=False)
            axes.text(-beyond, place - 0.28, short_name(bar.name), transform=line, va="bottom")
            axes.text(1 + beyond, place - 0.28, f"{bar.value:.{decimals}f}", transform=line, va="bottom", ha="right")
        return as_svg(figure, caption)


def histograms(rows: Sequence[Histogram], caption: str, salt: str) -> str:
    """Spreads of numbers from 0 to 1, one below the other, each as high as its highest bin; see `forest`."""
    tall, top, bottom, edge = 64, 4, 24, 16
    height = tall * len(rows) + top + bottom
    with settings(salt, grid="x"):
        figure, axes = canvas(360, height, left=edge, right=edge, top=top, bottom=bottom)
        axes.set_xlim(0, 1)
        axes.set_ylim(len(rows), 0)
        axes.set_yticks([])
        axes.xaxis.set_major_formatter("{x:g}")
        line, beyond = axes.get_yaxis_transform(), (edge - 2) / (360 - 2 * edge)
        for place, row in enumerate(rows):
            colour, foot = ink_of(row.style), place + 0.98
            edges = [i / len(row.shares) for i in range(len(row.shares) + 1)]
            highest = max(row.shares)
            axes.stairs(
                [foot - 0.62 * share / highest for share in row.shares], edges, baseline=foot, fill=True, color=colour
            )
            axes.plot([0, 1], [foot, foot], color=FAINT, linewidth=0.8)
            if row.chance is not None:
                axes.plot([row.chance] * 2, [foot, place + 0.3], color=INK, linewidth=1.5, linestyle=(0, (1.5, 1.5)))
            axes.text(-beyond, place + 0.26, short_name(row.name), transform=line, va="bottom")
            axes.text(1 + beyond, place + 0.26, f"{row.mean:.3f}", transform=line, va="bottom", ha="right")
        return as_svg(figure, caption)


def curves(series: Sequence[Series], unit: str, caption: str, salt: str) -> str:
    """Numbers by epoch; see `forest`.

    Args:
        series: at least one with a number in it.
        unit: behind the numbers of the vertical axis: "%" or "".
    """
    largest = max((y for one in series for y in one.y if math.isfinite(y)), default=0)
    with settings(salt, grid="y"):
        figure, axes = canvas(420, 280, left=38 if largest >= 0.1 else 56, right=8, top=8, bottom=38)
        for one in series:
            points = [(x, y) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y)]
            if not points:
                continue
            x, y = zip(*points, strict=True)
            colour = ink_of(one.style)
            if one.low:
                axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(x, y, color=colour, linewidth=2, linestyle=line_style(one.style))
            axes.plot(x[-1], y[-1], "o", color=colour, markersize=6)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(f"{{x:g}}{unit}")
        return as_svg(figure, caption)


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
    with settings(salt, grid="y"):
        figure, axes = canvas(
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
                "color": ink_of(one.style),
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
        return as_svg(figure, caption)


def depths(series: Sequence[Series], chance: float, caption: str, salt: str) -> str:
    """Shares from 0 to 1 by depth, and as a dotted line what chance gives; see `forest`."""
    with settings(salt, grid="y"):
        figure, axes = canvas(420, 240, left=38, right=12, top=8, bottom=38)
        deepest = max(max(one.x, default=1) for one in series)
        for one in series:
            colour = ink_of(one.style)
            dashes = line_style(one.style)
            axes.plot(one.x, one.y, color=colour, linewidth=2, linestyle=dashes, marker="o", markersize=6)
        axes.plot([0.5, deepest + 0.5], [chance, chance], color=INK, linewidth=1.2, linestyle=(0, (1, 2)))
        axes.set_xlim(0.5, deepest + 0.5)
        known = [y for one in series for y in one.y if math.isfinite(y)]
        axes.set_ylim(0, min(1.02, 1.1 * max([*known, chance, 0.05])))
        axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("depth")
        return as_svg(figure, caption)


def columns(bars: Sequence[Bar], level: float, top: float, caption: str, salt: str) -> str:
    """Percentages with their intervals side by side, numbered from 1, and a dashed line at a level; see `forest`.

    Args:
        bars: at least one; NaN leaves a gap.
        level: of the dashed line, in percent.
        top: of the scale, in percent.
    """
    with settings(salt, grid="y"):
        figure, axes = canvas(420, 200, left=44, right=8, top=8, bottom=38)
        for place, bar in enumerate(bars, 1):
            if math.isfinite(bar.value):
                axes.bar(place, bar.value, width=0.72, color=ink_of(bar.style), alpha=0.55)
                ends = [max(0.0, bar.low), min(100.0, bar.high)]
                axes.plot([place, place], ends, color=INK, linewidth=1.2, solid_capstyle="butt")
        axes.plot([0.5, len(bars) + 0.5], [level, level], color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.set_xlim(0.4, len(bars) + 0.6)
        axes.set_ylim(0, top)
        axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter("{x:g}%")
        axes.set_xlabel("group")
        return as_svg(figure, caption)
