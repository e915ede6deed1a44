"""Reports for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from regard.bias import Comparison, Results
from regard.formatting import NONE, interval, p_value, percent, points, printable, signed
from regard.report.glossary import plain
from regard.report.measure_words import RATES, measure_of
from regard.report.records import Column, Record, filled
from regard.report.wording import shortened
from regard.stats import Estimate


def records_table(records: Sequence[Record], columns: Sequence[Column], caption: str = "", *, title: str = "") -> Table:
    """Records as a table for rich, each interval in a second line; see `Column`.

    Args:
        records: flat dicts.
        columns: those without a value in any record are left out.
        caption: a fixed sentence of `captions`, below the table.
        title: above it.
    """
    table = Table(
        title=Text(printable(title), style="bold") if title else None,
        title_justify="left",
        caption=Text(plain(caption), style="dim") if caption else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    columns = filled(columns, records)
    for column in columns:
        left = column.is_text
        heading = column.label if left else column.label.replace(" ", "\n")
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for record in records:
        cells = []
        for column in columns:
            text, small = map(printable, column.texts(record))
            cells.append(Text.assemble(text, "\n", (small, "dim")) if small else Text(text))
        table.add_row(*cells)
    return table


def bias_table(reports: Sequence[Results]) -> Table:
    """Bias reports of several models as a table, one row a model: rates and means, their 95% intervals below."""
    scored = any(report.overall.accuracy.n for report in reports)
    caption = "Rates in %; below each number its 95% interval. Not counted: empty regions and constant maps."
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("model", overflow="fold")
    accuracy = ("accuracy",) if scored else ()
    for heading in (*accuracy, "position\nbias", "range\nbias", "energy\ninside", "spill"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, report in zip(shortened([report.model for report in reports]), reports, strict=True):
        whole = report.overall
        rates = (whole.accuracy, whole.position_bias, whole.range_bias)[0 if scored else 1 :]
        table.add_row(
            Text.assemble(name, "\n", (f"{whole.position_bias.n:,} images", "dim")),
            *(_rate(rate if rate.n else None) for rate in rates),
            *(_mean(whole.means[name]) for name in ("energy_inside", "spill")),
        )
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Differences between two models as a table: a row per measure, rates in points."""
    title = Text(printable(f"{comparison.model} minus {comparison.reference}"), style="table.title")
    caption = "Rates in points. p is corrected for all differences together (Holm); below 0.05 it is significant."
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("measure")
    for heading in ("difference", "95% interval", "p", "images"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, one in comparison.differences.items():
        write = points if name in RATES else signed
        numbers = (write(one.value), interval(one.low, one.high, write), p_value(one.p_adjusted), f"{one.n:,}")
        table.add_row(measure_of(name).name, *numbers, style="bold" if one.significant else "")
    return table


def results_table(results: Results, classes: bool = True) -> Table:
    """Results of one model as a table: a row per part of the images, the 95% intervals of rates below them.

    Args:
        results: of the model.
        classes: whether each class has a row.
    """
    where = f" at {results.layer}" if results.layer else ""
    title = (
        f"{results.model} on {f'{results.dataset} {results.split}'.strip()}: {results.method}{where}, "
        f"{results.target} class, focus at {results.threshold:g}"
    )
    caption = (
        f"Rates in % with 95% Wilson intervals. Left out of all but accuracy: {results.overall.constant_maps} constant "
        f"maps, {results.overall.empty_regions} empty regions. Margin: {results.margin} pixels. Images that could not "
        f"be read: {len(results.skipped)}."
    )
    table = Table(
        title=Text(printable(title), style="table.title"),
        caption=Text(caption, style="table.caption"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("images", overflow="fold")
    for heading in ("number", "accuracy", "position\nbias", "range\nbias", "spill", "energy", "AUC"):
        table.add_column(heading, justify="right", no_wrap=True)
    parts = {"all": results.overall, **({"right": results.right, "wrong": results.wrong} if results.scored else {})}
    parts |= {f"{name} regions": summary for name, summary in results.by_size.items() if summary.images}
    if classes:
        parts |= {f"class {name}": summary for name, summary in results.by_class.items()}
    for name, summary in parts.items():
        rates = (summary.accuracy, summary.position_bias, summary.range_bias)
        means = (summary.means[measure] for measure in ("spill", "energy_inside", "auc"))
        table.add_row(
            Text(printable(name)),
            f"{summary.images:,}",
            *(_rate(rate if rate.n else None) for rate in rates),
            *(f"{mean.value:.2f}" if mean.n else NONE for mean in means),
        )
    return table


def _mean(mean: Estimate) -> Text:
    if not mean.n:
        return Text(NONE)
    if math.isnan(mean.low):
        return Text(f"{mean.value:.3f}")
    return Text.assemble(f"{mean.value:.3f}", "\n", (f"{mean.low:.3f}–{mean.high:.3f}", "dim"))


def _rate(rate: Estimate | None, value: float | None = None) -> Text:
    if rate is not None:
        return Text.assemble(percent(rate.value), "\n", (f"{percent(rate.low)}–{percent(rate.high)}", "dim"))
    return Text(NONE if value is None else percent(value))
