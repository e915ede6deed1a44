"""`regard table`: published numbers beside one's own."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.table import Table

from regard import report, tables, training
from regard.cli.settings import add_overrides, check_place, given_overrides, split_name
from regard.console import Console
from regard.errors import InputError
from regard.files import write_text
from regard.formatting import printable_lines
from regard.store import Store, StoredRun
from regard.terminal import listed, say

DEFAULT = "runs"  # where runs go if nothing is said
_FORMATS = ["terminal", "markdown", "html", "latex", "csv", "csv-comparisons"]
_SUFFIXES = {".md": "markdown", ".html": "html", ".tex": "latex", ".csv": "csv", ".txt": "terminal"}


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard table",
        usage="regard table [NAME | FILE.yaml] [OPTIONS]   (without a name: which tables there are)",
        description="A published table with the runs of a store beside its numbers: every seed, median, mean and "
        "standard deviation, and what may be said of each comparison. A run belongs to a cell by its recipe. Runs of "
        "other data or shortened schedules are shown if --shorten and --data say so, or if there are no others.",
    )
    parser.add_argument("--runs", type=str, default=DEFAULT, help="the store: a folder of runs, or an fsspec address")
    parser.add_argument("--rows", type=str, default="", help="only these, with commas")
    parser.add_argument("--format", choices=_FORMATS, default=None, help="of what is written")
    parser.add_argument("--out", type=str, default=None, help="a file to write to; its ending tells the format")
    add_overrides(parser)
    name, rest = split_name(arguments)
    options = parser.parse_args(rest)
    if name is None:
        _list()
        return 0
    table = tables.load_table(name).only(listed(options.rows) or None)
    check_place(options.out)
    form = options.format or _SUFFIXES.get(Path(options.out).suffix if options.out else ".txt")
    if form is None:
        raise InputError(
            f"the ending of {options.out} tells no format; known: {', '.join(_SUFFIXES)}, or give --format"
        )
    if form == "html" and not options.out:
        raise InputError("a page goes to a file; give one (--out table.html)")
    overrides, _ = given_overrides(parser, options, rest)
    filled = tables.fill(table, stored_runs(options.runs), overrides)
    if form == "html":
        say(report.write_tables_html([filled], options.out))
        return 0
    if options.out is None and form == "terminal":
        show(filled)
        return 0
    text = written(filled, form)
    if options.out is None:
        print(printable_lines(text), end="" if text.endswith("\n") else "\n")
        return 0
    write_text(options.out, text)
    say(options.out)
    return 0


def show(filled: tables.FilledTable) -> None:
    """On the terminal."""
    Console().print(tables.TerminalTable(filled))


def written(filled: tables.FilledTable, form: str) -> str:
    """As text in one of the formats but html."""
    if form == "terminal":
        console = Console(width=160, no_color=True)
        with console.capture() as captured:
            console.print(tables.TerminalTable(filled))
        return captured.get()
    if form == "csv":
        return tables.csv_text(filled.to_records())
    if form == "csv-comparisons":
        return tables.csv_text(filled.comparison_records())
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


def _list() -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("table", no_wrap=True)  # a name in two lines cannot be copied
    table.add_column("what it shows")
    table.add_column("cells", justify="right")
    table.add_column("with a recipe", justify="right")
    for name in tables.table_names():
        one = tables.load_table(name)
        recipes = sum(cell.recipe is not None for cell in one.cells.values())
        table.add_row(name, one.title, str(len(one.cells)), str(recipes))
    Console().print(table)
    say("`regard table NAME` shows one, `regard reproduce NAME` fills it.")
