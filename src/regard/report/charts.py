"""The page's figures, from the networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from regard.formatting import large
from regard.report import figures
from regard.report.bubbles import Bubble, bubbles
from regard.report.seed_groups import SeedGroup
from regard.report.summary import Summary
from regard.stats import Estimate

_CURVES = (
    ("Test accuracy", "test_accuracy", 100, "%"),
    ("Training loss (cross entropy with the labels)", "task", 1, ""),
    ("Attention loss, before its weight beta", "attention", 1, ""),
)
_OF_SOME = ("attention",)  # 0 throughout where a network is not trained with it


@dataclass(frozen=True)
class Chart:
    """A titled figure; `svg` is markup that is safe on a page."""

    title: str
    svg: Markup


def forests(groups: Sequence[SeedGroup], styles: Mapping[str, int], salt: str = "") -> list[Chart]:
    """Accuracy and the two bias rates with their intervals, each where any network has it.

    Args:
        groups: the networks.
        styles: by name of network.
        salt: unlike that of other calls for the same page.
    """
    drawn = []
    for title in ("Test accuracy", "Position bias", "Range bias"):
        bars = [bar for group in groups if (bar := _bar(group, styles[group.name], title)) is not None]
        if bars:
            said = "; ".join(f"{bar.name} {bar.value:.1f}% ({bar.low:.1f} to {bar.high:.1f})" for bar in bars)
            svg = figures.forest(bars, f"{title} with 95% intervals: {said}", salt=f"{salt}{title}")
            drawn.append(Chart(title, Markup(svg)))
    return drawn


def curves(groups: Sequence[SeedGroup], styles: Mapping[str, int], salt: str = "") -> list[Chart]:
    """Test accuracy and losses by epoch, each where any network has it: the mean over its runs, and a band from the
    least to the greatest; see `forests`.
    """
    drawn = []
    for title, column, factor, unit in _CURVES:
        series = {}
        for group in groups:
            one = _series(group, styles[group.name], column, factor)
            if one is not None:
                series[group.name] = one
        if series:
            said = "; ".join(f"{name} {one.y[-1]:.3g}{unit}" for name, one in series.items())
            caption = f"{title} by epoch; last: {said}"
            svg = figures.curves(list(series.values()), unit, caption, salt=f"{salt}curve {title}")
            drawn.append(Chart(title, Markup(svg)))
    return drawn


def costs(groups: Sequence[SeedGroup], styles: Mapping[str, int], salt: str = "") -> Chart | None:
    """Accuracy by multiply-adds, a bubble a network whose area is in proportion to its parameters; see `forests`.

    None for fewer than two networks that have finished and whose accuracy and costs are known.
    """
    found = []
    for group in groups:
        values = [100 * value for value in group.accuracies]
        if group.finished and values and group.parameters and group.multiply_adds:
            mean = sum(values) / len(values)
            ends = (min(values), max(values))
            found.append(Bubble(group.name, styles[group.name], group.multiply_adds, mean, *ends, group.parameters))
    if len(found) < 2:
        return None
    said = "; ".join(
        f"{one.name} {one.y:.1f}% with {large(round(one.x))}, {large(round(one.size))} parameters" for one in found
    )
    svg = bubbles(found, f"Test accuracy by multiply-adds: {said}", salt=f"{salt}costs")
    return Chart("Test accuracy by multiply-adds; areas are parameters", Markup(svg))


def _bar(group: SeedGroup, style: int, title: str) -> figures.Bar | None:
    measure = title.lower().removeprefix("test ")
    statistics = group.statistics(measure) if len(group.rows) > 1 else None
    if statistics is not None:
        low = statistics.mean if statistics.low is None else statistics.low
        high = statistics.mean if statistics.high is None else statistics.high
        return figures.Bar(group.name, style, statistics.mean, low, high, points=list(group.values(measure).values()))
    rate = _rate(group.first, measure)
    if rate is None or len(group.rows) > 1:
        return None
    return figures.Bar(group.name, style, 100 * rate.value, 100 * rate.low, 100 * rate.high)


def _rate(row: Summary, measure: str) -> Estimate | None:
    return {"accuracy": row.accuracy, "position bias": row.position_bias, "range bias": row.range_bias}[measure]


def _series(group: SeedGroup, style: int, column: str, factor: float) -> figures.Series | None:
    by_epoch: dict[int, list[float]] = {}
    for row in group.rows:
        for epoch, value in _points(row, column):
            by_epoch.setdefault(epoch, []).append(factor * value)
    if not by_epoch or (column in _OF_SOME and not any(any(values) for values in by_epoch.values())):
        return None
    epochs = sorted(by_epoch)
    means = [sum(by_epoch[epoch]) / len(by_epoch[epoch]) for epoch in epochs]
    if len(group.rows) == 1:
        return figures.Series(style, epochs, means)
    low, high = ([end(by_epoch[epoch]) for epoch in epochs] for end in (min, max))
    return figures.Series(style, epochs, means, low, high)


def _points(row: Summary, column: str) -> Iterator[tuple[int, float]]:
    """(epoch, value), where there is one."""
    for line in row.metrics:
        value = line.get(column)
        if isinstance(value, int | float) and math.isfinite(value):
            yield line["epoch"], value
