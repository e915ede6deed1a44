"""Reports for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from regard.bias import Mean, Rate, Report
from regard.formatting import NONE, large, percent
from regard.report.glossary import plain
from regard.report.records import Column, Record, filled
from regard.report.summary import Summary
from regard.report.wording import shortened


def records_table(records: Sequence[Record], columns: Sequence[Column], caption: str = "") -> Table:
    """Records as a table: columns with a value in any record, intervals below the values; `caption`: see `captions`."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=plain(caption), caption_justify="left")
    columns = filled(columns, records)
    for column in columns:
        table.add_column(column.label, justify="left" if column.is_text else "right", overflow="fold")
    for record in records:
        cells = (column.texts(record) for column in columns)
        table.add_row(*(Text.assemble(text, "\n", (small, "dim")) if small else Text(text) for text, small in cells))
    return table


def terminal_table(rows: Sequence[Summary]) -> Table:
    """The rows as a table: costs, accuracy, bias rates in percent with their 95% intervals below, mean spill."""
    caption = "Rates in %, below them their 95% Wilson intervals (test images, one training run each)."
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("network", overflow="fold")
    for heading in ("parameters", "multiply-\nadds", "test\naccuracy", "position\nbias", "range\nbias", "mean\nspill"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        spill = NONE if row.spill is None else f"{row.spill.value:.3f}"
        rates = (_rate(row.accuracy, row.test_accuracy), _rate(row.position_bias), _rate(row.range_bias))
        table.add_row(Text(row.name), large(row.parameters), large(row.multiply_adds), *rates, spill)
    return table


def bias_table(reports: Sequence[Report]) -> Table:
    """Bias reports of several models as a table, one row a model: rates and means, their 95% intervals below."""
    scored = any(report.overall.accuracy.total for report in reports)
    caption = "Rates in %; below each number its 95% interval. Counted are images with a region and a map not flat."
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("model", overflow="fold")
    accuracy = ("accuracy",) if scored else ()
    for heading in (*accuracy, "position\nbias", "range\nbias", "energy\ninside", "spill"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, report in zip(shortened([report.model for report in reports]), reports, strict=True):
        whole = report.overall
        rates = (whole.accuracy, whole.position_bias, whole.range_bias)[0 if scored else 1 :]
        table.add_row(
            Text.assemble(name, "\n", (f"{whole.position_bias.total:,} images", "dim")),
            *(_rate(rate if rate.total else None) for rate in rates),
            *(_mean(whole.means[name]) for name in ("energy_inside", "spill")),
        )
    return table


def _mean(mean: Mean) -> Text:
    if not mean.count:
        return Text(NONE)
    if mean.count == 1:
        return Text(f"{mean.value:.3f}")
    return Text.assemble(f"{mean.value:.3f}", "\n", (f"{mean.low:.3f}–{mean.high:.3f}", "dim"))


def _rate(rate: Rate | None, value: float | None = None) -> Text:
    if rate is not None:
        return Text.assemble(percent(rate.value), "\n", (f"{percent(rate.low)}–{percent(rate.high)}", "dim"))
    return Text(NONE if value is None else percent(value))
