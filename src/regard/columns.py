"""Columns of tables of records: how a notebook, a terminal and a page show the values of flat dicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from regard.formatting import NONE, duration, interval, large, number, p_value, percent, points, printable, signed

Record = Mapping[str, Any]
Kind = Literal["text", "count", "large", "percent", "number", "points", "signed", "p", "significant", "duration"]

_FORMATS: Mapping[Kind, Callable[[Any], str]] = {
    "text": printable,
    "count": "{:,}".format,
    "large": large,
    "percent": lambda share: f"{percent(share)}%",
    "number": number,
    "points": points,
    "signed": signed,
    "p": p_value,
    "duration": duration,
}
_ESTIMATES = ("value", "difference", "mean")  # keys whose interval is under `low` and `high`
_KINDS: Mapping[str, Kind] = {"p": "p", "p_adjusted": "p", "significant": "significant"}


@dataclass(frozen=True)
class Column:
    """A column of a table of records.

    Attributes:
        key: key of the values. An estimate or difference has its interval under `key_low` and `key_high` (for the keys
            "value", "difference" and "mean" under `low` and `high`), and its standard deviation, if any, under
            `key_deviation`.
        label: heading of the column.
        kind: "text"; "count", an integer; "large", an integer with a unit; "percent" and "number", estimates in [0, 1];
            "points", a difference of percentages, and "signed", of numbers; "p"; "significant", a bool; "duration", in
            seconds.
        term: term of the glossary of pages; empty for none.
        detail: key of a text in small type; empty for none.
        write: function that formats a value; None for the usual format of the kind.
    """

    key: str
    label: str
    kind: Kind = "text"
    term: str = ""
    detail: str = ""
    write: Callable[[Any], str] | None = None

    @property
    def is_text(self) -> bool:
        """Whether the column is left-aligned."""
        return self.kind in ("text", "significant")

    def texts(self, record: Record) -> tuple[str, str]:
        """The text of a record's value, and its interval or detail for small type; "" for none."""
        value = _nan_to_none(record.get(self.key))
        small = printable(record.get(self.detail) or "") if self.detail else self._interval(record)
        if self.kind == "significant":
            return "not tested" if value is None else "significant" if value else "not significant", small
        if value is None:
            return NONE, small
        deviation = _nan_to_none(record.get(f"{self.key}_deviation"))
        if deviation is None:
            return self._text(value), small
        if self.kind == "percent":
            return f"{percent(value, 2)} ± {percent(deviation, 2)}%", small
        return f"{self._text(value)} ± {self._text(deviation)}", small

    def _text(self, value: Any) -> str:
        return (self.write or _FORMATS[self.kind])(value)

    def _interval(self, record: Record) -> str:
        low, high = (_nan_to_none(record.get(f"{self.key}_{end}")) for end in ("low", "high"))
        if low is None and self.key in _ESTIMATES:
            low, high = _nan_to_none(record.get("low")), _nan_to_none(record.get("high"))
        if low is None or high is None:
            return ""
        return interval(low, high, percent if self.kind == "percent" else self._text)


def filled(columns: Sequence[Column], records: Sequence[Record]) -> list[Column]:
    """The columns that have a value in any of the records."""
    return [
        column
        for column in columns
        if column.kind == "significant"
        or any(_nan_to_none(record.get(column.key)) not in (None, "") for record in records)
    ]


def columns_of(records: Sequence[Record], keys: Sequence[str] = ()) -> list[Column]:
    """The columns with some keys of any flat records, by default with all keys except those of intervals.

    Values that are dicts are left out.
    """
    values: dict[str, list[Any]] = {}
    for record in records:
        for key, value in record.items():
            values.setdefault(key, []).append(value)
    ends = {f"{key}_{end}" for key in values for end in ("low", "high")}
    if values.keys() & set(_ESTIMATES):
        ends |= {"low", "high"}
    columns = []
    for key in keys or [key for key in values if key not in ends]:
        column = values.get(key, ())
        is_text = any(isinstance(value, str | bool) and value != "" for value in column)
        kind = _KINDS.get(key, "text" if is_text else "number")
        label = "adjusted p" if key == "p_adjusted" else printable(key.replace("_", " "))
        if not any(isinstance(value, Mapping) for value in column):
            columns.append(Column(key, label, kind, write=None if key in _KINDS else _text_of))
    return filled(columns, records)


def _nan_to_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _text_of(value: Any) -> str:
    """Formats a value by its type."""
    if _nan_to_none(value) in (None, ""):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return large(value).replace("-", "−")
    if isinstance(value, float):
        return number(value) if abs(value) < 1e-12 or 1e-3 <= abs(value) < 1e3 else f"{value:.3g}".replace("-", "−")
    if isinstance(value, list | tuple):
        return ", ".join(map(_text_of, value)) or NONE
    return printable(value)
