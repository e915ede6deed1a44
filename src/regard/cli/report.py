"""`regard report`: writes one page about a set of runs."""

from __future__ import annotations

from pathlib import Path

from regard import report
from regard.cli.command import Command
from regard.cli.options import make_parser
from regard.errors import InputError
from regard.files import check_overwritable
from regard.parser import Parser, strings
from regard.report.template import MARK
from regard.store import Store


def parser() -> Parser:
    parser = make_parser(
        "report",
        "Writes one self-contained page about runs: results over seeds, comparisons, curves, cost and accuracy, class "
        "activation maps of the same test images, the published tables that the runs belong to, and the commands to "
        "repeat them. Runs that differ only in their seeds are one network.",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="run folders, folders of run folders, patterns such as 'runs/wrn-*', or addresses of a store or a run, "
        "such as s3://bucket/runs; the folder runs if not given",
    )
    parser.add_argument("--out", default="report.html", help="page to write")
    parser.add_argument("--names", type=strings, default=[], help="names of the networks, in order")
    parser.add_argument("--reference", help="network that the others are compared with")
    parser.add_argument(
        "--examples",
        type=int,
        default=12,
        interval="[0, 10^6]",
        help="number of test images to show with their CAMs; 0 is fastest",
    )
    parser.add_argument("--title", default="Runs", help="title of the page")
    parser.add_argument("--data.folder", help="folder of the test images, if not the one in the recipes")
    return parser


def main(command: Command) -> None:
    options = command.options
    check_overwritable(Path(options.out), MARK)  # fails before the long computation
    runs = report.report_runs(
        [folder for path in options.runs or ["runs"] for folder in _folders(path)],
        title=options.title,
        names=options.names or None,
        reference=options.reference,
        images=options.examples,
        folder=options.data.folder,
    )
    page = runs.save(options.out)
    command.show(runs.to_records(), runs)
    command.note(f"page: {page.resolve()}")


def _folders(path: str) -> list[str]:
    """A local path itself, or local copies of the runs at an address."""
    if "://" not in path:
        return [path]
    parent, _, name = path.rstrip("/").rpartition("/")
    store = Store(parent) if not parent.endswith(("/", ":")) else None
    if store is not None and not name.startswith(".") and store.run(name) is not None:
        return [str(store.fetch(name, checkpoints=False))]
    store = Store(path)
    names = [run.name for run in store.runs()]
    if not names:
        raise InputError(f"there is no run at {path}; give the address of a store, or of a run")
    return [str(store.fetch(name, checkpoints=False)) for name in names]
