"""`regard report`: one page of a set of runs."""

from __future__ import annotations

from pathlib import Path

from regard import report
from regard.cli.command import Command
from regard.cli.options import make_parser
from regard.errors import InputError
from regard.files import check_written
from regard.parser import Parser, strings
from regard.report.template import MARK
from regard.store import Store


def parser() -> Parser:
    parser = make_parser(
        "report",
        "Writes one page of runs, which needs nothing but itself: the results over their seeds, comparisons, curves, "
        "cost and accuracy, class activation maps of the same test images, the published tables that the runs fill, "
        "and how to repeat them. Runs that differ only in their seeds are one network.",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="run folders, folders of run folders, patterns such as 'runs/wrn-*', or addresses of a store or a run, "
        "such as s3://bucket/runs; runs if none is named",
    )
    parser.add_argument("--out", default="report.html", help="page to write")
    parser.add_argument("--names", type=strings, default=[], help="names of the networks, in order")
    parser.add_argument("--reference", help="network to compare the others with")
    parser.add_argument(
        "--examples",
        type=int,
        default=12,
        interval="[0, 10^6]",
        help="number of test images to draw with CAMs; 0 is quick",
    )
    parser.add_argument("--title", default="Runs", help="title of the page")
    parser.add_argument("--data.folder", help="folder of the test images, if elsewhere")
    return parser


def main(command: Command) -> None:
    options = command.options
    check_written(Path(options.out), MARK)  # before the work
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
    """A path on this machine as it is; of an address, the runs behind it, fetched."""
    if "://" not in path:
        return [path]
    above, _, name = path.rstrip("/").rpartition("/")
    store = Store(above) if not above.endswith(("/", ":")) else None
    if store is not None and not name.startswith(".") and store.run(name) is not None:
        return [str(store.fetch(name, checkpoints=False))]
    store = Store(path)
    names = [run.name for run in store.runs()]
    if not names:
        raise InputError(f"there is no run at {path}; give the address of a store, or of a run")
    return [str(store.fetch(name, checkpoints=False)) for name in names]
