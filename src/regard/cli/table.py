"""`regard table`: shows published numbers beside your own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from regard import report, tables, training
from regard.cli.command import Command, render_text
from regard.cli.options import check_parent_folder, make_parser
from regard.columns import Column
from regard.errors import InputError
from regard.files import write_text
from regard.formatting import csv_text, printable, printable_lines
from regard.parser import Parser, strings
from regard.report import records_table
from regard.store import Store, StoredRun

DEFAULT = "runs"  # store of runs
_RUN_OPTIONS = ("device", "threads", "save_minutes")  # fields of recipes that are options of the same name
_COLUMNS = (
    *(Column("table", "table"), Column("title", "title")),
    *(Column("cells", "cells", "count"), Column("with_recipe", "with a recipe", "count")),
)
_FORMATS = ["terminal", "markdown", "html", "latex", "csv", "csv-comparisons"]
_SUFFIXES = {".md": "markdown", ".html": "html", ".tex": "latex", ".csv": "csv", ".txt": "terminal"}


def parser() -> Parser:
    parser = make_parser(
        "table",
        "Shows a published table with the runs of a store beside its numbers: every seed, the mean or median, the "
        "standard deviation, and the verdict on each comparison. The recipe of a run determines its cell. Runs on "
        "other data or with shortened schedules are shown with --data and --shorten, or if there are no other runs.",
    )
    parser.add_argument(
        "table", nargs="?", help="name of a published table, or a file TABLE.yaml; lists the tables if not given"
    )
    parser.add_argument("--runs", default=DEFAULT, help="store to read: a folder of runs or an address")
    parser.add_argument("--rows", type=strings, default=[], help="rows to show; all if not given")
    parser.add_argument("--format", choices=_FORMATS, help="format to write")
    parser.add_argument("--out", help="file to write, whose extension selects the format")
    add_overrides(parser)
    return parser


def main(command: Command) -> None:
    options = command.options
    if options.table is None:
        _list(command)
        return
    table = tables.load_table(options.table).only(options.rows or None)
    check_parent_folder(options.out)
    form = options.format or _SUFFIXES.get(Path(options.out).suffix if options.out else ".txt")
    if form is None:
        raise InputError(
            f"the extension of {options.out} is not known; known: {', '.join(_SUFFIXES)}; or give --format"
        )
    if form == "html" and not options.out:
        raise InputError("the format html needs a file; give one (--out table.html)")
    overrides, _ = parse_overrides(command)
    filled = tables.fill(table, stored_runs(options.runs), overrides)
    if options.out is not None:
        if form == "html":
            report.write_tables_html([filled], options.out)
        else:
            write_text(options.out, format_table(filled, form))
        command.show({"path": options.out}, printable(options.out))
    elif form == "terminal" or options.json:
        show(command, filled)
    else:
        print(printable_lines(format_table(filled, form)).rstrip("\n"))


def show(command: Command, filled: tables.FilledTable) -> None:
    """Prints a table as a result."""
    records = {"cells": filled.to_records(), "comparisons": filled.comparison_records()}
    command.show(records, tables.TerminalTable(filled))


def format_table(filled: tables.FilledTable, form: str) -> str:
    """Formats a table as text, in any format except html."""
    if form == "terminal":
        return render_text(tables.TerminalTable(filled))
    if form == "csv":
        return csv_text(filled.to_records())
    if form == "csv-comparisons":
        return csv_text(filled.comparison_records())
    if form == "latex":
        return tables.document(filled, detail=False).to_latex()
    return tables.document(filled).to_markdown()


def stored_runs(address: str) -> list[StoredRun]:
    """The runs of a store, which has to exist unless it is the default one."""
    store = Store(address)
    if not store.exists():
        if address == DEFAULT:
            return []
        raise InputError(f"there is no store of runs at {address}; `regard reproduce` and `regard train` create one")
    return store.runs()


def _list(command: Command) -> None:
    records = []
    for name in tables.table_names():
        table = tables.load_table(name)
        recipes = sum(cell.recipe is not None for cell in table.cells.values())
        records.append({"table": name, "title": table.title, "cells": len(table.cells), "with_recipe": recipes})
    command.show(records, records_table(records, _COLUMNS))
    command.note("`regard table NAME` shows a table, `regard reproduce NAME` fills it.")


def add_overrides(parser: Parser) -> None:
    """Adds the options that override a table's recipes: `--shorten`, `--precision` and `--data.*`."""
    parser.add_argument("--shorten", type=float, help="fraction of the epochs to keep in every schedule, in (0, 1]")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"], help="precision of the forward pass")
    training.add_data(parser)


def parse_overrides(command: Command) -> tuple[tables.Overrides | None, dict[str, Any]]:
    """Returns the overrides, None if there are none, and the fields that do not change results, such as the device."""
    options, typed = command.options, command.typed
    values = training.plain(training.to_data(options))
    fields = {f"data.{name}": values[name] for name in vars(typed.get("data", Namespace()))}
    fields |= {name: options[name] for name in ("precision", *_RUN_OPTIONS) if name in typed}
    where = {name: value for name, value in fields.items() if name in training.WHERE}
    changed = {name: value for name, value in fields.items() if name not in training.WHERE}
    if options.shorten is None and not changed:
        return None, where
    return tables.Overrides(1.0 if options.shorten is None else options.shorten, changed), where
