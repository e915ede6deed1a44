"""Filled tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from regard.tables.contents import Compared, Contents, Entry, contents
from regard.tables.filled import FilledTable

_UNLIMITED = 10_000
_WHY = 48  # columns that a reason needs beside its verdict, to be read


class TerminalTable:
    """A filled table that lays itself out for the width it is printed at.

    The table has its own columns where these fit, and a block a row where they do not.

    Args:
        filled: the table.
        detail: whether every seed is shown.
    """

    def __init__(self, filled: FilledTable, detail: bool = True) -> None:
        self.contents = contents(filled)
        self.detail = detail

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        said = self.contents
        yield Text(said.title, style="bold")
        for fact in said.facts:
            yield Text(fact, style="dim")
        for warning in said.warnings:
            yield Text(warning, style="yellow")
        grid = _grid(said)
        yield grid if _width(console, options, grid) <= options.max_width else _blocks(said)
        if said.comparisons:
            yield Text("Comparisons", style="bold")
            table = _comparisons(said)
            fits = _width(console, options, table) + _WHY <= options.max_width
            yield from [_comparisons(said, why=True)] if fits else _comparison_lines(said)
        if self.detail and said.origins:
            yield Text("Every seed", style="bold")
            yield from _origins(said)
        for note in said.notes:
            yield Text(note, style="dim")


def terminal_table(filled: FilledTable, detail: bool = True) -> TerminalTable:
    """A filled table to print with rich, at any width.

    Args:
        filled: the table.
        detail: whether every seed is shown, with where its numbers come from.
    """
    return TerminalTable(filled, detail)


def _width(console: Console, options: ConsoleOptions, table: Table) -> int:
    return console.measure(table, options=options.update(width=_UNLIMITED)).maximum


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _published(entry: Entry | None) -> Text:
    return Text("" if entry is None else entry.published)


def _ours(entry: Entry | None) -> Text:
    return Text("") if entry is None else Text(entry.ours, style="bold" if entry.values else "dim")


def _grid(said: Contents) -> Table:
    """Two lines a row and metric: published, and ours."""
    table = _table()
    table.add_column("")
    table.add_column("")
    for title in said.columns.values():
        table.add_column(Text(title), justify="right", no_wrap=True)
    for line in said.lines():
        if line.title and table.rows:
            table.add_section()
        table.add_row(Text(line.title), Text(f"{line.what}published"), *map(_published, line.entries))
        table.add_row("", Text(f"{line.what}ours"), *map(_ours, line.entries))
    return table


def _blocks(said: Contents) -> Table:
    """A block a row and metric, its columns one below the other."""
    table = _table()
    table.add_column("", overflow="fold", ratio=1)
    table.add_column("published", justify="right", no_wrap=True)
    table.add_column("ours", justify="right", no_wrap=True)
    for row, title in said.rows.items():
        for index, metric in enumerate(said.metrics):
            table.add_row(Text(f"{title}, {metric}" if said.several else title, style="bold"))
            for column in said.columns:
                if entry := said.entries.get((row, column, index)):
                    table.add_row(Text(f"  {entry.column}"), _published(entry), _ours(entry))
            table.add_section()
    return table


def _comparisons(said: Contents, why: bool = False) -> Table:
    table = _table()
    table.add_column("", no_wrap=True)
    for heading in ("published", "ours", "95% interval", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    if why:
        table.add_column("", overflow="fold", ratio=1)
    for one in said.comparisons:
        reason = [Text(one.why if one.difference else "", style="dim")] if why else []
        numbers = map(Text, (one.published, one.ours, one.interval, one.p))
        table.add_row(Text(f"{said.where(one)}: {one.pair}"), *numbers, Text(one.verdict, style=_style(one)), *reason)
    return table


def _comparison_lines(said: Contents) -> Iterator[Text | Padding]:
    """One below the other; those without runs together, a line a row."""
    waiting: dict[str, list[str]] = {}
    for one in said.comparisons:
        if one.difference is None:
            waiting.setdefault(said.where(one), []).append(f"{one.pair} {one.published}")
        else:
            published = "" if one.number is None else f", published {one.published}"
            yield Text.assemble(f"{said.where(one)}: {one.pair}{published}: ", (one.verdict, _style(one)))
            yield Padding(Text(one.why, style="dim"), (0, 0, 0, 2), expand=False)
    if waiting:
        yield Text("Without runs, as published:")
    for where, pairs in waiting.items():
        yield Padding(Text(f"{where}: {'; '.join(pairs)}", style="dim"), (0, 0, 0, 2), expand=False)
    yield Text()


def _style(one: Compared) -> str:
    return f"bold {_STYLES[one.tone]}".strip()


_STYLES = {"good": "green", "bad": "red", "mid": "yellow", "": ""}


def _origins(said: Contents) -> Iterator[Text | Padding]:
    for origin in said.origins:
        yield Text.assemble((origin.cell, "bold"), f": {origin.whence}")
        for entry in origin.entries:
            metric = f"{entry.metric}: " if said.several else ""
            line = f"{metric}median {entry.median}, mean {entry.mean}, 95% {entry.interval}; seeds {entry.seeds}"
            yield Padding(Text(line), (0, 0, 0, 2), expand=False)
    yield Text()
