"""The figures of the bias page."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from regard.bias import Results
from regard.bias.results import comparable
from regard.report import figures
from regard.report.breakdown import parts
from regard.report.charts import Chart
from regard.report.measure_words import measure_of
from regard.report.template import Network

_RATES = ("accuracy", "position_bias", "range_bias", "pointing")
_MEANS = ("energy_inside", "spill")
_SPREADS = {"energy_inside": "Energy inside the region", "spill": "Spill outside the region", "auc": "AUC"}
_BINS = 25


def forests(reports: Sequence[Results], networks: Sequence[Network]) -> list[Chart]:
    """Rates and means with their intervals, each where any is known: of each network, or of each part of the images if
    there is but one network."""
    if len(reports) == 1:
        named = [(part.name, networks[0].style, part.summary) for part in parts(reports[0])]
        measures: tuple[str, ...] = ("position_bias", "range_bias", "energy_inside")
    else:
        named = [(*network, report.overall) for report, network in zip(reports, networks, strict=True)]
        measures = _RATES + _MEANS
    drawn = []
    for name in measures:
        factor, unit, decimals = (100, "%", 1) if name in _RATES else (1, "", 3)
        bars = []
        for title, style, summary in named:
            number = summary.estimates()[name]
            if not math.isnan(number.value):
                low, high = (number.value if math.isnan(end) else end for end in (number.low, number.high))
                bars.append(figures.Bar(title, style, factor * number.value, factor * low, factor * high))
        if bars:
            title = measure_of(name).name.capitalize()
            said = "; ".join(
                f"{bar.name} {bar.value:.{decimals}f}{unit} ({bar.low:.{decimals}f} to {bar.high:.{decimals}f})"
                for bar in bars
            )
            svg = figures.forest(bars, f"{title} with 95% intervals: {said}", f"forest {name}", unit)
            drawn.append(Chart(title, Markup(svg)))
    return drawn


def spreads(reports: Sequence[Results], networks: Sequence[Network]) -> list[Chart]:
    """How energy inside, spill and AUC are spread over the images, each where any report has it."""
    drawn = []
    for name, title in _SPREADS.items():
        rows = []
        for report, network in zip(reports, networks, strict=True):
            counted = comparable(report.rows)
            values = report.rows[name][counted]
            values = values[~np.isnan(values)]
            if len(values):
                counts, _ = np.histogram(np.clip(values, 0, 1), bins=_BINS, range=(0, 1))
                area = float(report.rows["region_area"][counted].mean(dtype=np.float64))
                chance = {"energy_inside": area, "spill": 1 - area, "auc": 0.5}[name]
                mean = float(values.mean(dtype=np.float64))
                rows.append(figures.Histogram(*network, (counts / len(values)).tolist(), mean, chance))
        if rows:
            said = "; ".join(f"{row.name}: mean {row.mean:.3f}" for row in rows)
            svg = figures.histograms(rows, f"{title}, image by image: {said}", f"spread {name}")
            drawn.append(Chart(title, Markup(svg)))
    return drawn
