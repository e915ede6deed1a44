"""Tables of records: what a column of flat dicts shows, the same on a page and in a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from regard.formatting import NONE, duration, interval, large, number, p_value, percent, points, printable, signed
from regard.report.glossary import TERMS

Record = Mapping[str, Any]
Kind = Literal[
    "text", "measure", "count", "large", "percent", "number", "points", "signed", "p", "significant", "duration"
]

_NAMED = 8  # in a note about many
_WRITERS: Mapping[str, Callable[[Any], str]] = {
    "measure": lambda key: TERMS[key].name,
    "count": "{:,}".format,
    "large": large,
    "percent": lambda share: f"{percent(share)}%",
    "number": number,
    "points": points,
    "signed": signed,
    "p": p_value,
    "duration": duration,
}


class Note(NamedTuple):
    """What a reader should know: the run, network, file or comparison that it is about, and the note."""

    about: str
    note: str


@dataclass(frozen=True)
class Column:
    """A column of a table of records.

    Attributes:
        key: of the records. An estimate or difference has its interval under `key_low` and `key_high` (of the key
            "value": `low` and `high`), and may have a standard deviation under `key_deviation`.
        label: the heading.
        kind: "text"; "measure", a key of the glossary; "count", a whole number; "large", the same with a unit;
            "percent" and "number", an estimate in [0, 1]; "points", a difference of percentages, and "signed", of
            numbers; "p"; "significant", whether it is; "duration", in seconds.
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
        return self.kind in ("text", "measure", "significant")

    def texts(self, record: Record) -> tuple[str, str]:
        """What is shown of a record, and in small type its interval or detail; "" for none."""
        value = _known(record.get(self.key))
        small = printable(record.get(self.detail) or "") if self.detail else self._interval(record)
        if self.kind == "significant":
            return "not tested" if value is None else "significant" if value else "not significant", small
        if value is None:
            return NONE, small
        deviation = _known(record.get(f"{self.key}_deviation"))
        if deviation is None:
            return self._text(value), small
        decimals = 2 if self.kind == "percent" else 3
        write = percent if self.kind == "percent" else number
        unit = "%" if self.kind == "percent" else ""
        return f"{write(value, decimals)} ± {write(deviation, decimals)}{unit}", small

    def classes(self, record: Record) -> str:
        """CSS classes of the cell."""
        tone = "good" if self.kind == "significant" and record.get(self.key) else ""
        return " ".join(filter(None, ("text" if self.is_text else "", tone)))

    def _text(self, value: Any) -> str:
        return _WRITERS.get(self.kind, printable)(value)

    def _interval(self, record: Record) -> str:
        ends = ("low", "high") if self.key == "value" else (f"{self.key}_low", f"{self.key}_high")
        low, high = (_known(record.get(end)) for end in ends)
        return (
            ""
            if low is None or high is None
            else interval(low, high, percent if self.kind == "percent" else self._text)
        )


def filled(columns: Sequence[Column], records: Sequence[Record]) -> list[Column]:
    """The columns that have a value in any of the records."""
    return [
        column
        for column in columns
        if column.kind == "significant" or any(_known(record.get(column.key)) not in (None, "") for record in records)
    ]


def gathered(notes: Iterable[Note]) -> list[Note]:
    """Notes of the same text as one, about all of theirs."""
    abouts: dict[str, list[str]] = {}
    for about, note in notes:
        abouts.setdefault(note, []).append(about)
    return [
        Note("; ".join(names[:_NAMED]) + (f"; +{len(names) - _NAMED}" if len(names) > _NAMED else ""), note)
        for note, names in abouts.items()
    ]


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
