"""Tables of records: what a column of flat dicts shows, the same on a page and in a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from regard.formatting import NONE, interval, large, p_value, percent, points, printable, signed

Record = Mapping[str, Any]
Kind = Literal["text", "count", "large", "percent", "number", "points", "signed", "p", "significant"]


class Note(NamedTuple):
    """What a reader should know: the run, network, file or comparison that it is about, and the note."""

    about: str
    note: str


@dataclass(frozen=True)
class Column:
    """A column of a table of records.

    Attributes:
        key: of the records. An estimate or difference has its interval under `key_low` and `key_high`.
        label: the heading.
        kind: "text"; "count", a whole number; "large", the same with a unit; "percent" and "number", an estimate in
            [0, 1]; "points", a difference of percentages, and "signed", of numbers; "p"; "significant", whether it is.
        term: of the glossary; empty for none.
        detail: key of a text in small type; empty for none.
    """

    key: str
    label: str
    kind: Kind = "text"
    term: str = ""
    detail: str = ""

    @property
    def is_text(self) -> bool:
        """Whether it is aligned at the left."""
        return self.kind in ("text", "significant")

    def texts(self, record: Record) -> tuple[str, str]:
        """What is shown of a record, and in small type its interval or detail; "" for none."""
        value = _known(record.get(self.key))
        small = printable(str(record.get(self.detail) or "")) if self.detail else self._interval(record)
        if value is None:
            return ("not tested" if self.kind == "significant" else NONE), small
        return self._text(value), small

    def classes(self, record: Record) -> str:
        """CSS classes of the cell."""
        tone = "good" if self.kind == "significant" and record.get(self.key) else ""
        return " ".join(filter(None, ("text" if self.is_text else "", tone)))

    def _text(self, value: Any) -> str:
        match self.kind:
            case "percent":
                return f"{percent(value)}%"
            case "number":
                return f"{value:.3f}"
            case "points":
                return points(value)
            case "signed":
                return signed(value)
            case "count":
                return f"{value:,}"
            case "large":
                return large(value)
            case "p":
                return p_value(value)
            case "significant":
                return "significant" if value else "not significant"
        return printable(str(value))

    def _interval(self, record: Record) -> str:
        low, high = (_known(record.get(f"{self.key}_{end}")) for end in ("low", "high"))
        if low is None or high is None:
            return ""
        return interval(low, high, percent if self.kind == "percent" else self._text)


def filled(columns: Sequence[Column], records: Sequence[Record]) -> list[Column]:
    """The columns that have a value in any of the records."""
    return [
        column
        for column in columns
        if column.kind == "significant" or any(_known(record.get(column.key)) not in (None, "") for record in records)
    ]


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
