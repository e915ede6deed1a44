"""What all figures share: SVG that takes its colours from the page, `currentColor` for ink, a variable a network."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regard.formatting import printable

COLOURS = 8  # of networks: the first for the reference alone, the others in turn, each time with other dashes and dots
_DASHES: tuple[Any, ...] = ("solid", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)))
_CORES = ("", "var(--paper)", "currentColor", "var(--soft)")  # of dots; "": the colour of the network

# Drawn in these, and replaced by what the page decides.
INK, FAINT = "#0a0b0c", "#0d0e0f"
_NETWORK = "#a1b2{:02x}"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "text.parse_math": False,
    "text.usetex": False,
}
_POINTS = 72  # an inch


def colour_of(style: int) -> int:
    """Which of the page's colours a network has."""
    return style and 1 + (style - 1) % (COLOURS - 1)


def ink_of(style: int) -> str:
    """What to draw a network in; `as_svg` puts the page's colour in its place."""
    return _NETWORK.format(COLOURS * _turn(style) + colour_of(style))


def core_of(style: int) -> str:
    """What a network's dot is filled with: once the colours are used up, not with them."""
    return _CORES[_turn(style)] or f"var(--net-{colour_of(style)})"


def dashes_of(style: int) -> str:
    """The dashes of a network's line, as SVG writes them for a line 2 wide."""
    pattern = line_style(style)
    return "none" if pattern == "solid" else " ".join(f"{2 * length:g}" for length in pattern[1])


def short_name(name: str) -> str:
    """The name, if it fits above a bar."""
    name = printable(name)
    return name if len(name) <= 38 else f"{name[:37]}…"


def line_style(style: int) -> Any:
    """The dashes of a network's line, as matplotlib takes them."""
    return _DASHES[_turn(style)]


def settings(salt: str, grid: str) -> AbstractContextManager[None]:
    """Matplotlib's settings for one figure.

    Args:
        salt: unlike that of any other figure on the page.
        grid: "x", "y" or "both".
    """
    return matplotlib.rc_context({**_STYLE, "svg.hashsalt": printable(salt), "axes.grid.axis": grid})


def canvas(width: float, height: float, *, left: float, right: float, top: float, bottom: float) -> tuple[Figure, Axes]:
    """A figure with one set of axes, in points; no state is shared with pyplot."""
    figure = Figure(figsize=(width / _POINTS, height / _POINTS))
    figure.patch.set_alpha(0)
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(box)
    axes.patch.set_alpha(0)
    return figure, axes


def as_svg(figure: Figure, caption: str) -> str:
    """The figure as an element of a page: no prolog, no metadata, no style of its own."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None, "matplotlib gives every SVG a viewBox"
    text = f'<svg {view[0]} role="img" aria-label="{escape(printable(caption))}">{text[text.index(">") + 1 :]}'
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in every figure, and used by none
    text = text.replace(INK, "currentColor").replace(FAINT, "var(--line)")
    for place in range(COLOURS * len(_CORES)):
        ink, core = _NETWORK.format(place), _CORES[place // COLOURS]
        if core:  # of what has an edge of its own colour, which is dots
            text = text.replace(f'fill: {ink}; stroke: {ink}"', f'fill: {core}; stroke: {ink}; stroke-width: 1.6"')
        text = text.replace(ink, f"var(--net-{place % COLOURS})")
    return re.sub(r"\n\s*", "\n", text).strip()


def _turn(style: int) -> int:
    """How often all colours were used up before."""
    return max(0, style - 1) // (COLOURS - 1) % len(_DASHES)
