"""The page's figures, from the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from regard.bias import Rate
from regard.report import figures
from regard.report.summary import Summary

_CURVES = (
    ("Test accuracy", "test_accuracy", 100, "%"),
    ("Training loss (cross entropy with the labels)", "task", 1, ""),
)


@dataclass(frozen=True)
class Chart:
    """A titled figure; `svg` is markup that is safe on a page."""

    title: str
    svg: Markup


def forests(rows: Sequence[Summary], styles: Mapping[str, int]) -> list[Chart]:
    """Accuracy and the two bias rates with their intervals, each where any row has it; `styles` by name of row."""
    panels: dict[str, list[tuple[Summary, Rate | None]]] = {
        "Test accuracy": [(row, row.accuracy) for row in rows],
        "Position bias": [(row, row.position_bias) for row in rows],
        "Range bias": [(row, row.range_bias) for row in rows],
    }
    drawn = []
    for title, rates in panels.items():
        bars = [
            figures.Bar(row.name, styles[row.name], 100 * rate.value, 100 * rate.low, 100 * rate.high)
            for row, rate in rates
            if rate is not None
        ]
        if bars:
            said = "; ".join(f"{bar.name} {bar.value:.1f}% ({bar.low:.1f} to {bar.high:.1f})" for bar in bars)
            svg = figures.forest(bars, f"{title} with 95% intervals: {said}", salt=title)
            drawn.append(Chart(title, Markup(svg)))
    return drawn


def curves(rows: Sequence[Summary], styles: Mapping[str, int]) -> list[Chart]:
    """Test accuracy and training loss by epoch, each where any row has it."""
    drawn = []
    for title, column, factor, unit in _CURVES:
        series = {}
        for row in rows:
            points = [(e["epoch"], factor * e[column]) for e in row.metrics if isinstance(e.get(column), int | float)]
            if points:
                epochs, values = zip(*points, strict=True)
                series[row.name] = figures.Series(styles[row.name], epochs, values)
        if series:
            said = "; ".join(f"{name} {one.y[-1]:.3g}{unit}" for name, one in series.items())
            svg = figures.curves(list(series.values()), unit, f"{title} by epoch; last: {said}", salt=f"curve {title}")
            drawn.append(Chart(title, Markup(svg)))
    return drawn
