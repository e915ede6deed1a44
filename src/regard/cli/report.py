"""`regard report`: one page of a set of runs."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

from regard import report
from regard.errors import InputError
from regard.files import check_written
from regard.report.template import MARK
from regard.store import Store
from regard.terminal import listed, say
from regard.training import RecipeParser


def main(arguments: list[str]) -> int:
    parser = RecipeParser(
        prog="regard report",
        usage="regard report [RUN… | STORE…] [OPTIONS]   (the runs in runs/ if none is named)",
        description="One page of runs that needs nothing but itself: what they came to over their seeds, what may be "
        "said of the differences, curves, cost against accuracy, maps of the same test images, the published tables "
        "that they fill, and how to repeat them. Name run folders, folders of run folders, patterns such as "
        "'runs/wrn-*', or addresses of a store or a run, such as s3://bucket/runs. Runs that differ only in their "
        "seeds are one network.",
    )
    parser.add_argument("--out", type=str, default="report.html", help="the page that is written")
    parser.add_argument("--names", type=str, default="", help="of the networks, in their order, with commas between")
    parser.add_argument("--reference", type=str | None, default=None, help="the network the others are compared with")
    parser.add_argument("--images", type=int, default=12, help="test images with maps; 0 for none, which is quick")
    parser.add_argument("--title", type=str, default="Runs", help="of the page")
    parser.add_argument("--data.folder", type=str | None, default=None, help="where the test images lie, if elsewhere")
    places = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    options = parser.parse_args(arguments[len(places) :])
    if options.images < 0:
        raise InputError(f"--images {options.images}; give 0 or more")
    check_written(Path(options.out), MARK)  # before the work
    page = report.report_runs(
        [folder for place in places or ["runs"] for folder in _folders(place)],
        options.out,
        title=options.title,
        names=listed(options.names) or None,
        reference=options.reference,
        images=options.images,
        folder=options.data.folder,
    )
    say(f"the report is {page.resolve()}")
    return 0


def _folders(place: str) -> list[str]:
    """A place of this machine as it is; of an address, the runs behind it, brought here."""
    if "://" not in place:
        return [place]
    above, _, name = place.rstrip("/").rpartition("/")
    one = Store(above) if not above.endswith(("/", ":")) else None
    if one is not None and not name.startswith(".") and one.run(name) is not None:
        return [str(one.fetch(name, checkpoints=False))]
    store = Store(place)
    names = [run.name for run in store.runs()]
    if not names:
        raise InputError(f"there is no run at {place}; give the address of a store, or of a run")
    return [str(store.fetch(name, checkpoints=False)) for name in names]
