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
    """A network's rate and its interval, in percent; the interval may be unknown."""

    name: str
    style: int
    value: float
    low: float
    high: float


def forest(bars: Sequence[Bar], caption: str, salt: str) -> str:
    """Rates with their intervals, one below the other, on one scale.

    Args:
        bars: at least one.
        caption: what the figure shows, for who cannot see it.
        salt: unlike that of any other figure on the page.
    """
    height = 38 * len(bars) + 34
    with _style(salt, grid="x"):
        width, edge = 360, 16  # the edge is for the outermost numbers of the axis; names begin at the figure's own
        figure, axes = _canvas(width, height, left=edge, right=edge, top=4, bottom=24)
        low, high = min(bar.low for bar in bars), max(bar.high for bar in bars)
        room = max(0.06 * (high - low), 0.5)
        axes.set_xlim(max(low - room, -0.5), min(high + room, 100.5))
        axes.set_ylim(len(bars) - 0.32, -0.68)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter("{x:g}%")
        line, beyond = axes.get_yaxis_transform(), (edge - 2) / (width - 2 * edge)
        for place, bar in enumerate(bars):
            colour = _NETWORK.format(colour_of(bar.style))
            axes.plot([bar.low, bar.high], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot(bar.value, place, "o", color=colour, markersize=8)
            name = bar.name if len(bar.name) <= 38 else f"{bar.name[:37]}…"
            axes.text(-beyond, place - 0.28, name, transform=line, va="bottom")
            axes.text(1 + beyond, place - 0.28, f"{bar.value:.1f}", transform=line, va="bottom", ha="right")
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


def colour_of(style: int) -> int:
    """Which of the page's colours a network has."""
    return style and 1 + (style - 1) % (COLOURS - 1)


def dashes_of(style: int) -> str:
    """The dashes of a network's line, as SVG writes them for a line 2 wide."""
    pattern = _dashes(style)
    return "none" if pattern == "solid" else " ".join(f"{2 * length:g}" for length in pattern[1])


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
