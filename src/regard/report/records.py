"""Tables of records for a terminal, and notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from regard.columns import Column, Record, filled
from regard.formatting import printable
from regard.report.glossary import plain

TEST = (
    Column("p", "p", "p", "p"),
    Column("p_adjusted", "adjusted p", "p", "holm"),
    Column("significant", "result", "significant", "significant"),
)
"""Columns of the test of a difference."""


class Note(NamedTuple):
    """A note for the reader about a run, network, file or comparison."""

    about: str
    note: str


def merged_notes(notes: Iterable[Note]) -> list[Note]:
    """Merges notes with the same text into one about all their subjects."""
    abouts: dict[str, list[str]] = {}
    for about, note in notes:
        abouts.setdefault(note, []).append(about)
    return [Note("; ".join(abbreviated(names, 8)), note) for note, names in abouts.items()]


def abbreviated(names: Sequence[str], count: int) -> list[str]:
    """The first names and the number of the others: a, b, +3."""
    return [*names[:count], *([f"+{len(names) - count}"] if len(names) > count else [])]


def records_table(records: Sequence[Record], columns: Sequence[Column], *, title: str = "", caption: str = "") -> Table:
    """Flat dicts as a table for rich, with each interval in a second line, and one of `captions` below.

    Columns without a value in any record are left out.
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
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for record in records:
        cells = []
        for column in columns:
            text, small = map(printable, column.texts(record))
            cells.append(Text.assemble(text, "\n", (small, "dim")) if small else Text(text))
        table.add_row(*cells)
    return table
