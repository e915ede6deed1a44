"""Formats numbers and text for pages, tables and the terminal."""

from __future__ import annotations

import csv
import io
import math
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regard.stats import Difference, Estimate

NONE = "–"
"""Shown in place of a missing value."""


def number(value: float | None, decimals: int = 3) -> str:
    """0.031; negative numbers have a true minus sign (−)."""
    return NONE if value is None or math.isnan(value) else _minus(f"{value:z.{decimals}f}")


def percent(value: float | None, decimals: int = 1) -> str:
    """0.743 -> 74.3"""
    return NONE if value is None else number(100 * value, decimals)


def signed(value: float | None, decimals: int = 3) -> str:
    """+0.031, −0.004, 0.000"""
    if value is None or math.isnan(value):
        return NONE
    text = f"{value:+.{decimals}f}"
    return _minus(text) if float(text) else text[1:]


def points(value: float | None, decimals: int = 1) -> str:
    """A difference of two rates in percentage points: 0.031 -> +3.1."""
    return NONE if value is None else signed(100 * value, decimals)


def interval(low: float | None, high: float | None, write: Callable[[float], str] = percent) -> str:
    """0.715, 0.769 -> 71.5 to 76.9"""
    if low is None or high is None or math.isnan(low):
        return NONE
    return f"{write(low)} to {write(high)}"


def estimate(estimate: Estimate | Difference, write: Callable[[float], str] = percent) -> str:
    """74.3 (71.5 to 76.9)"""
    text = write(estimate.value)
    return text if math.isnan(estimate.low) else f"{text} ({interval(estimate.low, estimate.high, write)})"


def difference(difference: Difference, write: Callable[[float], str] = points) -> str:
    """+3.1 (+0.4 to +5.8)"""
    return estimate(difference, write)


def p_value(p: float | None) -> str:
    """< 0.001, 0.031; 0.0497 with four decimals, because three would not show on which side of 0.05 it is."""
    if p is None or math.isnan(p):
        return NONE
    text = f"{p:.3f}" if p >= 0.001 else "< 0.001"
    return f"{p:.4f}" if text == "0.050" else text


def large(count: int | None) -> str:
    """175,994; 26.8 M; 4.11 G"""
    if count is None:
        return NONE
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if count >= size:
            value = count / size
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """1 seed; 5 seeds"""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """45 s, 12 min, 3 h 05 min, 2 days 4 h"""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} days {hours} h"


def printable(text: object) -> str:
    """Text as one line that cannot control a terminal or the layout of a page.

    Control characters, line ends, marks that change the direction of writing and undecodable bytes (surrogates) are
    escaped as in a Python string: `\\x1b`, `\\n`, `\\u202e`, `\\udce9`. Spaces of all widths stay. LaTeX, Markdown,
    CSV and HTML need their own escapes in addition.
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_escaped, text))


def printable_lines(text: str) -> str:
    """Applies `printable` to each line."""
    return "\n".join(map(printable, text.split("\n")))


def shortened(names: Sequence[str]) -> list[str]:
    """Printable paths without their common folder; names that are not paths stay as they are."""
    folder = os.path.commonprefix(names)
    folder = folder[: folder.rfind("/") + 1]
    if "=" in folder or any(len(name) == len(folder) for name in names):
        folder = ""
    return [printable(name[len(folder) :]) for name in names]


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as comma-separated values: numbers in full precision, None as an empty field, lists joined by semicolons.

    An apostrophe is put before text that a spreadsheet would run as a formula.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(records[0] if records else ())
    writer.writerows([_csv(value) for value in record.values()] for record in records)
    return file.getvalue()


def _csv(value: Any) -> Any:
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else ";".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        text = printable(value)
        return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text
    return value


def _escaped(character: str) -> str:
    is_safe = character.isprintable() or unicodedata.category(character) == "Zs"
    return character if is_safe else repr(character)[1:-1]


def _minus(text: str) -> str:
    return text.replace("-", "−")
