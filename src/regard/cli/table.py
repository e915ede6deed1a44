"""`regard table`: published numbers beside one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from regard import report, tables, training
from regard.cli.command import Command, as_text
from regard.cli.options import check_place, make_parser
from regard.columns import Column
from regard.errors import InputError
from regard.files import write_text
from regard.formatting import csv_text, printable, printable_lines
from regard.parser import Parser, strings
from regard.report import records_table
from regard.store import Store, StoredRun

DEFAULT = "runs"  # the store, unless another is given
_WHERE = ("device", "threads", "save_minutes")  # fields of recipes that are options of the same name
_COLUMNS = (
    *(Column("table", "table"), Column("title", "title")),
    *(Column("cells", "cells", "count"), Column("with_recipe", "with a recipe", "count")),
)
_FORMATS = ["terminal", "markdown", "html", "latex", "csv", "csv-comparisons"]
_SUFFIXES = {".md": "markdown", ".html": "html", ".tex": "latex", ".csv": "csv", ".txt": "terminal"}


def parser() -> Parser:
    parser = make_parser(
        "table",
        "Shows a published table with the runs of a store beside its numbers: every seed, mean or median, standard "
        "deviation, and the verdict on each comparison. A run belongs to a cell by its recipe. Runs of other data or "
        "shortened schedules are shown with --shorten and --data, or if there are no others.",
    )
    parser.add_argument(
        "table", nargs="?", help="name of a published table, or a file TABLE.yaml; lists the tables if not given"
    )
    parser.add_argument("--runs", default=DEFAULT, help="store to read: a folder of runs, or an address")
    parser.add_argument("--rows", type=strings, default=[], help="rows to show; all if not given")
    parser.add_argument("--format", choices=_FORMATS, help="format to write")
    parser.add_argument("--out", help="file to write, whose ending says the format")
    add_overrides(parser)
    return parser


def main(command: Command) -> None:
    options = command.options
    if options.table is None:
        _list(command)
        return
    table = tables.load_table(options.table).only(options.rows or None)
    check_place(options.out)
    form = options.format or _SUFFIXES.get(Path(options.out).suffix if options.out else ".txt")
    if form is None:
        raise InputError(
            f"the ending of {options.out} stands for no format; known: {', '.join(_SUFFIXES)}, or give --format"
        )
    if form == "html" and not options.out:
        raise InputError("a page goes to a file; give one (--out table.html)")
    overrides, _ = given_overrides(command)
    filled = tables.fill(table, stored_runs(options.runs), overrides)
    if options.out is not None:
        if form == "html":
            report.write_tables_html([filled], options.out)
        else:
            write_text(options.out, written(filled, form))
        command.show({"path": options.out}, printable(options.out))
    elif form == "terminal" or options.json:
        show(command, filled)
    else:
        print(printable_lines(written(filled, form)).rstrip("\n"))


def show(command: Command, filled: tables.FilledTable) -> None:
    """Prints a table as a result."""
    records = {"cells": filled.to_records(), "comparisons": filled.comparison_records()}
    command.show(records, tables.TerminalTable(filled))


def written(filled: tables.FilledTable, form: str) -> str:
    """As text in one of the formats but html."""
    if form == "terminal":
        return as_text(tables.TerminalTable(filled))
    if form == "csv":
        return csv_text(filled.to_records())
    if form == "csv-comparisons":
        return csv_text(filled.comparison_records())
    if form == "latex":
        return tables.document(filled, detail=False).to_latex()
    return tables.document(filled).to_markdown()


def stored_runs(address: str) -> list[StoredRun]:
    """The runs of a store; none if it is the default one and not there yet.

    Raises:
        InputError: there is no such store.
    """
    store = Store(address)
    if not store.exists():
        if address == DEFAULT:
            return []
        raise InputError(f"there is no store of runs at {address}; `regard reproduce` and `regard train` make one")
    return store.runs()


def _list(command: Command) -> None:
    records = []
    for name in tables.table_names():
        one = tables.load_table(name)
        recipes = sum(cell.recipe is not None for cell in one.cells.values())
        records.append({"table": name, "title": one.title, "cells": len(one.cells), "with_recipe": recipes})
    command.show(records, records_table(records, _COLUMNS))
    command.note("`regard table NAME` shows one, `regard reproduce NAME` fills it.")


def add_overrides(parser: Parser) -> None:
    """Adds what runs of a table may have other than its recipes: `--shorten`, `--precision` and `--data.*`."""
    parser.add_argument("--shorten", type=float, help="shorten every schedule to this share of its epochs, (0, 1]")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"], help="precision of the forward pass")
    training.add_data(parser)


def given_overrides(command: Command) -> tuple[tables.Overrides | None, dict[str, Any]]:
    """The overrides that are given, None if there are none, and the fields of where runs take place.

    Args:
        command: with the options of `add_overrides`.
    """
    options, given = command.options, command.given
    values = training.plain(training.to_data(options))
    fields = {f"data.{name}": values[name] for name in vars(given.get("data", Namespace()))}
    fields |= {name: options[name] for name in ("precision", *_WHERE) if name in given}
    where = {name: value for name, value in fields.items() if name in training.WHERE}
    changed = {name: value for name, value in fields.items() if name not in training.WHERE}
    if options.shorten is None and not changed:
        return None, where
    return tables.Overrides(1.0 if options.shorten is None else options.shorten, changed), where
