"""Matplotlib figures of plain numbers, and their SVG for a page.

Every function takes numbers by label, in the order in which they are drawn, and returns a figure in the colours of a
light page; `svg` leaves the colours to the page. Labels are plain text: `$` and `<` have no special meaning.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from regard.formatting import number, printable, signed
from regard.formatting import percent as in_percent
from regard.optional import require
from regard.stats import Difference, Estimate

if TYPE_CHECKING:  # it takes half a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1b1c1f", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b")
"""The first is reserved for the reference; the others repeat, each time with another dash pattern."""

_INK, _GRID = COLOURS[0], "#dcdee2"
_DASHES: tuple[tuple[float, ...], ...] = ((), (4, 2), (1, 1.5), (6, 1.5, 1, 1.5), (8, 2))
_MOST_LETTERS = 38  # in a label

Axis = Literal["x", "y", "both"]
Interval = Estimate | Difference


def colour(style: int) -> int:
    """The index in `COLOURS` of the colour of a style."""
    return style and 1 + (style - 1) % (len(COLOURS) - 1)


def dashes(style: int) -> tuple[float, ...]:
    """The lengths of the dashes and gaps of a style's lines, in line widths; empty for a solid line."""
    return _DASHES[max(0, style - 1) // (len(COLOURS) - 1) % len(_DASHES)]


def curves(
    runs: Mapping[str, Sequence[Mapping[Any, float | Estimate]]],
    *,
    xlabel: str,
    ylabel: str = "",
    percent: bool = False,
    level: float | None = None,
    styles: Mapping[str, int] | None = None,
    legend: bool = True,
    markers: bool = False,
) -> Figure:
    """Line charts, such as test accuracy by epoch.

    Args:
        runs: label -> its runs, each x -> y. Several runs are drawn as thin lines, with their mean and a band from
            the minimum to the maximum; a run of estimates has a band of its 95% intervals.
        xlabel: label of the horizontal axis, which has whole ticks if all x are whole numbers.
        ylabel: label of the vertical axis.
        percent: whether y is a share, to be shown as a percentage.
        level: position of a dotted horizontal line, such as chance.
        styles: label -> number of the style; None: by position.
        legend: whether the labels are listed below the figure.
        markers: whether to mark every point instead of only the last.
    """
    figure, axes = _figure(420, 270, legend=runs if legend else ())
    for label, label_runs in runs.items():
        line = _line(_style(runs, styles, label))
        by_x: dict[float, list[float]] = {}
        for run in label_runs:
            numbers = {x: y.value if isinstance(y, Estimate) else y for x, y in run.items()}
            finite = {x: y for x, y in numbers.items() if math.isfinite(y)}
            for x, y in finite.items():
                by_x.setdefault(x, []).append(y)
            if len(label_runs) > 1:
                axes.plot(list(finite), list(finite.values()), color=line["color"], linewidth=0.6, alpha=0.5)
        if not by_x:
            continue
        positions = sorted(by_x)
        band = {x: (y.low, y.high) for x, y in label_runs[0].items() if isinstance(y, Estimate)}
        if len(label_runs) > 1:
            band = {x: (min(by_x[x]), max(by_x[x])) for x in positions}
        if band:
            low, high = map(list, zip(*band.values(), strict=True))
            axes.fill_between(list(band), low, high, color=line["color"], alpha=0.15, linewidth=0)
        mark: dict[str, Any] = {"marker": "o", "markersize": 5, "markevery": None if markers else [-1]}
        means = [math.fsum(by_x[x]) / len(by_x[x]) for x in positions]
        axes.plot(positions, means, label=_text(label), **line, **mark)
    if level is not None:
        axes.axhline(level, color=_INK, linewidth=1.2, linestyle=(0, (1, 2)))
    _label(axes, xlabel, ylabel)
    whole = all(float(x).is_integer() for label_runs in runs.values() for run in label_runs for x in run)
    _ticks(axes.xaxis, 8, whole=whole)
    _ticks(axes.yaxis, 6, percent=percent)
    _legend(figure, axes, legend)
    return figure


def intervals(
    rows: Mapping[str, Interval],
    *,
    xlabel: str = "",
    percent: bool = False,
    level: float | None = None,
    points: Mapping[str, Sequence[float]] | None = None,
    marks: Mapping[str, float] | None = None,
    limits: tuple[float, float] = (-math.inf, math.inf),
    styles: Mapping[str, int] | None = None,
) -> Figure:
    """A forest plot: numbers with their 95% intervals, one below the other on one scale.

    Args:
        rows: label -> estimate or difference; NaN leaves the row empty.
        xlabel: label of the scale.
        percent: whether the numbers are shares, to be shown as percentages.
        level: position of a vertical line, such as 0 for differences.
        points: label -> numbers of single runs, drawn as ticks.
        marks: label -> number to compare with, such as a published one, drawn as a diamond.
        limits: range of possible numbers, which limits the scale.
        styles: as for `curves`.
    """
    figure, axes = _figure(360, 36 * len(rows) + (46 if xlabel else 30), grid="x")
    for position, (label, row) in enumerate(rows.items()):
        color = COLOURS[colour(_style(rows, styles, label))]
        if math.isfinite(row.low) and math.isfinite(row.high):
            axes.plot([row.low, row.high], [position] * 2, color=color, linewidth=3, solid_capstyle="butt")
        axes.plot(row.value, position, "o", color=color, markersize=7, clip_on=False)
        if row_points := (points or {}).get(label, ()):
            axes.plot(row_points, [position] * len(row_points), "|", color=_INK, markersize=10, clip_on=False)
        if marks and label in marks:
            axes.plot(marks[label], position, "D", color=_INK, markersize=7, fillstyle="none", clip_on=False)
        _row_texts(axes, position - 0.26, label, _number(row.value, percent) if level is None else signed(row.value))
    axes.set_ylim(len(rows) - 0.5, -0.75)
    axes.set_yticks([])
    if level is not None:
        axes.axvline(level, color=_INK, linewidth=1)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, limits[0] - 0.01 * (high - low)), min(high, limits[1] + 0.01 * (high - low)))
    _label(axes, xlabel)
    _ticks(axes.xaxis, 5, percent=percent)
    return figure


def scatter(
    x: Mapping[str, float],
    y: Mapping[str, Interval],
    *,
    xlabel: str,
    percent: bool = False,
    areas: Mapping[str, float] | None = None,
    styles: Mapping[str, int] | None = None,
) -> Figure:
    """A scatter plot with labelled points, such as accuracy by cost.

    Args:
        x: label -> positive number, such as multiply-adds; the scale is logarithmic if they are far apart.
        y: label -> estimate.
        xlabel: label of the horizontal axis.
        percent: whether y are shares, to be shown as percentages.
        areas: label -> relative area of a circle around the point, such as parameters.
        styles: as for `curves`.
    """
    height = min(720, 300 + 10 * len(x))
    figure, axes = _figure(460, height, grid="both")
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    if max(x.values()) > 5 * min(x.values()):
        axes.set_xscale("log")
    largest = max((areas or {}).values(), default=1)
    radii = {label: 22 * math.sqrt(areas[label] / largest) if areas else 2.5 for label in x}
    for label in sorted(x, key=lambda label: -radii[label]):  # smaller circles on top
        color = COLOURS[colour(_style(x, styles, label))]
        point = y[label]
        if areas:
            size = 2 * radii[label]
            axes.plot(x[label], point.value, "o", markersize=size, color=color, alpha=0.2, markeredgewidth=0)
        if math.isfinite(point.low) and math.isfinite(point.high):
            axes.plot([x[label]] * 2, [point.low, point.high], color=color, linewidth=1.6, solid_capstyle="butt")
        axes.plot(x[label], point.value, "o", markersize=5, color=color)
    axes.margins(0.12, 0.12)
    _label(axes, xlabel)
    if axes.get_xscale() == "log":
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        _ticks(axes.xaxis, 6)
    axes.xaxis.set_major_formatter(EngFormatter())
    _ticks(axes.yaxis, 6, percent=percent)
    _label_points(axes, {label: (x[label], y[label].value) for label in x}, radii, height)
    return figure


def histograms(values: Mapping[str, Sequence[float]], *, levels: Mapping[str, float] | None = None) -> Figure:
    """Histograms of numbers in [0, 1] with their means, one below the other, each scaled to its highest bin.

    Args:
        values: label -> numbers; NaN is left out, numbers outside [0, 1] are clipped.
        levels: label -> position of a dotted vertical line, such as chance.
    """
    figure, axes = _figure(360, 62 * len(values) + 30, grid="x")
    for position, (label, numbers) in enumerate(values.items()):
        finite = np.asarray(numbers, dtype=np.float64)
        finite = finite[np.isfinite(finite)].clip(0, 1)
        baseline, color = position + 0.98, COLOURS[colour(position)]
        counts, edges = np.histogram(finite, bins=25, range=(0, 1))
        axes.stairs(baseline - 0.6 * counts / max(counts.max(), 1), edges, baseline=baseline, fill=True, color=color)
        if math.isfinite(level := (levels or {}).get(label, math.nan)):
            line: dict[str, Any] = {"color": _INK, "linewidth": 1.5, "linestyle": (0, (1.5, 1.5))}
            axes.plot([level, level], [baseline, position + 0.34], **line)
        _row_texts(axes, position + 0.3, label, number(float(finite.mean()) if len(finite) else None))
    axes.set_xlim(0, 1)
    axes.set_ylim(len(values), 0)
    axes.set_yticks([])
    _ticks(axes.xaxis, 5)
    return figure


def bars(
    values: Sequence[Interval],
    *,
    xlabel: str,
    percent: bool = False,
    level: float | None = None,
    top: float | None = None,
    style: int = 0,
) -> Figure:
    """A bar chart of numbers of 0 or more with their 95% intervals; bars are numbered from 1.

    Args:
        values: estimates; NaN leaves a gap.
        xlabel: what is numbered.
        percent: whether the numbers are shares, to be shown as percentages.
        level: position of a dashed horizontal line.
        top: end of the scale; None: chosen from the numbers.
        style: number of the style.
    """
    figure, axes = _figure(420, 200)
    positions = range(1, len(values) + 1)
    axes.bar(positions, [bar.value for bar in values], width=0.72, color=COLOURS[colour(style)], alpha=0.55)
    axes.vlines(positions, [bar.low for bar in values], [bar.high for bar in values], color=_INK, linewidth=1.2)
    if level is not None:
        axes.axhline(level, color=_INK, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.set_xlim(0.4, len(values) + 0.6)
    axes.set_ylim(0, top)
    _label(axes, xlabel)
    _ticks(axes.xaxis, 10, whole=True)
    _ticks(axes.yaxis, 5, percent=percent)
    return figure


def profiles(
    lines: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    reach: float | None = None,
    legend: bool = True,
) -> Figure:
    """Numbers by channel, with their distribution at the side and the differences from the first line below.

    Args:
        lines: label -> one number per channel; NaN and infinities leave gaps.
        xlabel: what is numbered, from 1.
        reach: largest difference on the scale, up and down; None: chosen from the numbers.
        legend: whether the labels are listed below the figure.
    """
    figure = _figure(420, 330, legend=lines if legend else ())[0]
    figure.clear()
    grid = figure.add_gridspec(2, 2, width_ratios=(5, 1), height_ratios=(2, 1))
    main, density, difference = (figure.add_subplot(grid[cell]) for cell in ((0, 0), (0, 1), (1, 0)))
    first = list(next(iter(lines.values())))
    values = [value for line in lines.values() for value in line if math.isfinite(value)] or [0.0]
    pad = 0.03 * (max(values) - min(values)) or 0.01
    ends = (min(values) - pad, max(values) + pad)
    steps = np.linspace(*ends, 60)
    positions = range(1, len(first) + 1)
    for style, (label, line) in reversed(list(enumerate(lines.items()))):  # the first on top
        line_style = _line(style) | {"linewidth": 1.4 if style else 2.2}
        mark: dict[str, Any] = {"marker": "o" if len(first) == 1 else ""}
        main.plot(positions, line, label=_text(label), **line_style, **mark)
        difference.plot(positions, [a - b for a, b in zip(line, first, strict=True)], **line_style, **mark)
        distances = (steps[:, None] - np.asarray(line)) / (ends[1] - ends[0])
        kernel = np.exp(-((20 * distances) ** 2) / 2)  # Gaussian, standard deviation 1/20 of the scale
        density.plot(np.nan_to_num(kernel).mean(1), steps, **line_style)
    for axes in (main, density, difference):
        _format(axes, "y")
    for axes in (main, density):
        axes.set_ylim(*ends)
        _ticks(axes.yaxis, 5)
    for axes in (main, difference):
        axes.set_xlim(0.5, len(first) + 0.5)
        _ticks(axes.xaxis, 8, whole=True)
    if reach is not None:
        difference.set_ylim(-1.05 * reach, 1.05 * reach)
    _ticks(difference.yaxis, 3)
    main.tick_params(labelbottom=False)
    density.tick_params(labelleft=False, labelbottom=False)
    _label(density, "density")
    _label(difference, xlabel, "difference")
    _legend(figure, main, legend, reverse=True)
    return figure


def pictures(rows: Mapping[str, Mapping[str, NDArray[Any]]], *, side: float = 108) -> Figure:
    """Pictures in a grid, one row per label.

    Titles are above the first row, and above each later row whose titles differ from those of the row before.

    Args:
        rows: label -> title -> picture: an image (H, W, 3), or a map (H, W), drawn from black at its minimum to yellow
            at its maximum without interpolation of small maps.
        side: side of a picture, in points.
    """
    columns = max(map(len, rows.values()))
    lines = max(title.count("\n") + 1 for row in rows.values() for title in row)
    letters = max(len(_text(label)) for label in rows) if len(rows) > 1 else 0
    figure = _empty_figure(side * columns + 6 * letters, (side + 6) * len(rows) + 14 * lines)
    previous_titles: list[str] = []
    for row_index, (label, row) in enumerate(rows.items()):
        for column, (title, picture) in enumerate(row.items()):
            axes = figure.add_subplot(len(rows), columns, row_index * columns + column + 1)
            axes.imshow(picture, cmap="inferno", interpolation="nearest" if max(picture.shape) <= 64 else None)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            style: dict[str, Any] = {"color": _INK, "fontsize": 10, "parse_math": False}
            if list(row) != previous_titles:
                axes.set_title("\n".join(_text(line, round(side / 6)) for line in title.split("\n")), **style)
            if letters and not column:
                axes.set_ylabel(_text(label), rotation=0, ha="right", va="center", labelpad=8, **style)
        previous_titles = list(row)
    return figure


def svg(figure: Figure, title: str) -> Markup:
    """The figure as an inline SVG element, without style sheet, script or address.

    Ink becomes `currentColor`, the grid `var(--line)`, and colour i of `COLOURS` `var(--net-i)`, so that a page can
    define them for light and dark. The same figure gives the same text.

    Args:
        figure: any matplotlib figure.
        title: its name for screen readers.
    """
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "regard"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue().encode())
    text = f"{printable(title)}\n{file.getvalue()}"
    prefix = hashlib.sha256(text.encode()).hexdigest()[:8]  # makes ids unique on a page
    colours = {hex: f"var(--net-{i})" for i, hex in enumerate(COLOURS)} | {_INK: "currentColor", _GRID: "var(--line)"}
    for element in root.iter():
        for child in list(element):
            if child.tag.endswith(("}metadata", "}style")):
                element.remove(child)
        element.tag = element.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        if element.tag == "g":
            attributes.pop("id", None)  # the same in every figure, and never referenced
        for name, value in attributes.items():
            value = f"{prefix}-{value}" if name == "id" else re.sub(r"(^|url\()#(?=\w)", rf"\1#{prefix}-", value)
            value = re.sub(r"#[0-9a-f]{6}\b", lambda hex: colours.get(hex[0], hex[0]), value)
            value = re.sub(r"font: (?:[^;]* )?([\d.]+px) [^;]*", r"font-size: \1", value)
            attributes[name] = re.sub(r"font-family: [^;]*;? ?", "", value)  # the page's font
        element.attrib.clear()
        element.attrib.update(attributes)
    attributes = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": printable(title)}
    attributes |= {"stroke-linejoin": "round"}
    root.attrib.clear()
    root.attrib.update(attributes)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _figure(width: float, height: float, *, grid: Axis = "y", legend: Iterable[str] = ()) -> tuple[Figure, Axes]:
    """A figure, in points, with one set of axes and room for a legend; it shares no state with pyplot."""
    labels = list(legend)
    if len(labels) > 1:
        height += 16 * math.ceil(len(labels) / _columns(labels)) + 8
    figure = _empty_figure(width, height)
    axes = figure.add_subplot()
    _format(axes, grid)
    return figure, axes


def _empty_figure(width: float, height: float) -> Figure:
    return _figure_class()(figsize=(width / 72, height / 72), layout="constrained")


@cache
def _figure_class() -> type[Figure]:
    require("a figure", "matplotlib")
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A figure that a notebook displays as it does those of pyplot."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=100)
            return file.getvalue()

    return NotebookFigure


def _format(axes: Axes, grid: Axis) -> None:
    """Shows only a scale below the axes, and grid lines along x, y or both."""
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.tick_params(length=0, which="both", labelcolor=_INK, labelsize=11)
    axes.grid(axis=grid, color=_GRID, linewidth=0.8)


def _label(axes: Axes, xlabel: str, ylabel: str = "") -> None:
    axes.set_xlabel(_text(xlabel), parse_math=False, color=_INK, fontsize=11)
    axes.set_ylabel(_text(ylabel), parse_math=False, color=_INK, fontsize=11)


def _row_texts(axes: Axes, position: float, label: str, value: str) -> None:
    """Writes the label of a row at the left and its number at the right."""
    style: dict[str, Any] = {"va": "bottom", "parse_math": False, "color": _INK, "in_layout": False}
    axes.text(0, position, _text(label), transform=axes.get_yaxis_transform(), **style)
    axes.text(1, position, value, transform=axes.get_yaxis_transform(), ha="right", **style)


def _ticks(axis: Any, count: int, *, percent: bool = False, whole: bool = False) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], integer=whole, min_n_ticks=1))
    axis.set_major_formatter(FuncFormatter(lambda x, _: (f"{100 * x:g}%" if percent else f"{x:g}").replace("-", "−")))


def _style(labels: Mapping[str, Any], styles: Mapping[str, int] | None, label: str) -> int:
    return list(labels).index(label) if styles is None else styles[label]


def _line(style: int) -> dict[str, Any]:
    return {"color": COLOURS[colour(style)], "linewidth": 2, "linestyle": (0, dashes(style)) if dashes(style) else "-"}


def _text(label: str, letters: int = _MOST_LETTERS) -> str:
    """The label as one printable line of at most so many letters."""
    label = printable(label)
    return label if len(label) <= letters else f"{label[: letters - 1]}…"


def _number(value: float, percent: bool) -> str:
    return f"{in_percent(value)}%" if percent and math.isfinite(value) else number(value)


def _columns(labels: Sequence[str]) -> int:
    return max(1, min(len(labels), 58 // (6 + max(len(_text(label)) for label in labels))))


def _legend(figure: Figure, axes: Axes, legend: bool, reverse: bool = False) -> None:
    """Lists the labels below the figure if there are several."""
    handles, labels = axes.get_legend_handles_labels()
    if not legend or len(labels) < 2:
        return
    if reverse:
        handles, labels = handles[::-1], labels[::-1]
    options: dict[str, Any] = {"loc": "outside lower left", "ncols": _columns(labels), "frameon": False, "fontsize": 10}
    for text in figure.legend(handles, labels, **options).get_texts():
        text.set_parse_math(False)
        text.set_color(_INK)


def _label_points(
    axes: Axes, points: Mapping[str, tuple[float, float]], radii: Mapping[str, float], height: float
) -> None:
    """Labels points in the left half below right and points in the right half above left, without overlaps."""
    low, high = axes.get_xlim()
    middle = math.sqrt(low * high) if axes.get_xscale() == "log" else (low + high) / 2
    ends = axes.get_ylim()
    scale = (height - 50) / (ends[1] - ends[0])  # points of the figure for 1 of y
    for side in (1, -1):
        side_points = [(scale * y, label) for label, (x, y) in points.items() if (x > middle) == (side < 0)]
        labels = [label for _, label in sorted(side_points, reverse=side > 0)]
        heights = [side * scale * points[label][1] for label in labels]  # so that labels of both sides are below points
        distances = [0.7 * radii[label] + 3 for label in labels]
        targets = [y - distance - 5 for y, distance in zip(heights, distances, strict=True)]
        positions: list[float] = []
        free = math.inf
        for target in targets:
            positions.append(min(target, free))
            free = positions[-1] - 13
        free = min(side * scale * end for end in ends) + 7  # the edge of the axes
        for i in reversed(range(len(positions))):
            positions[i] = max(positions[i], free)
            free = positions[i] + 13
        for y, label, distance, target, position in zip(heights, labels, distances, targets, positions, strict=True):
            axes.annotate(
                _text(label),
                points[label],
                (side * distance, side * (position - y)),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center",
                color=_INK,
                fontsize=10,
                parse_math=False,
                in_layout=False,
                arrowprops={"arrowstyle": "-", "color": _GRID} if abs(position - target) > 13 else None,
            )
