"""`regard runs`: what is in a store of runs, and how far it is. It is there at once: it does not wait for torch."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NoReturn

from rich import box
from rich.table import Table
from rich.text import Text

from regard.console import Console
from regard.errors import InputError
from regard.formatting import printable
from regard.store import Store, StoredRun
from regard.terminal import say

_NONE = "–"
_NARROW, _NARROWER = 110, 80  # characters of a terminal, below which columns are left out


def main(arguments: list[str]) -> int:
    parser = _Parser(
        prog="regard runs",
        usage="regard runs [STORE] [--unfinished] [--json]",
        description="The runs of a store: a folder of run folders, or an address such as s3://bucket/runs. How many "
        "epochs each has done, its test accuracy after the last of them, its network, its seed, the version of regard "
        "that trains it, and whether it is finished, at work, or broken.",
    )
    parser.add_argument("store", nargs="?", default="runs", metavar="STORE", help="a folder or an address; runs")
    parser.add_argument("--unfinished", action="store_true", help="only runs that are not finished")
    parser.add_argument("--json", action="store_true", help="a list of JSON instead of a table")
    options = parser.parse_args(arguments)
    store = Store(options.store)
    if not store.exists():
        raise InputError(f"there is no store {store.address}; give the folder of your runs, or an address")
    runs = store.runs()
    holders = store.locked()
    selected = [run for run in runs if not (options.unfinished and run.finished)]
    if options.json:
        print(json.dumps([_record(run, holders) for run in selected], indent=1))
        return 0
    terminal = sys.stdout.isatty()
    if selected:
        _print_table(selected, holders, Console().width if terminal else None)
    say(_totals(runs, holders) if runs else f"{store.address} has no runs")
    return 0


class _Parser(ArgumentParser):
    """The options; what is wrong is an `InputError`, not an exit."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (regard runs --help tells the options)")


def _state(run: StoredRun, holders: Mapping[str, str]) -> tuple[str, str]:
    """The state, and a description of it."""
    if run.name in holders:
        return "running", f"being run by {holders[run.name]}"
    if run.problem:
        return "broken", f"broken: {run.problem}"
    if run.finished:
        return "finished", "finished"
    if 0 < run.epochs_asked <= run.epochs:
        return "broken", "broken: it has no last.safetensors"
    return "unfinished", "unfinished"


def _record(run: StoredRun, holders: Mapping[str, str]) -> dict[str, Any]:
    state, description = _state(run, holders)
    return {
        "run": run.name,
        "epochs": run.epochs,
        "epochs_asked": run.epochs_asked,
        "test_accuracy": _accuracy(run),
        "network": _network(run),
        "seed": run.seed if run.recipe else None,
        "version": run.environment.get("regard"),
        "state": state,
        "about": description,
    }


def _accuracy(run: StoredRun) -> float | None:
    """After the last epoch, in [0, 1]; None if it is not known."""
    share = run.row.get("test_accuracy")
    return share if isinstance(share, int | float) and 0 <= share <= 1 else None


def _network(run: StoredRun) -> str:
    """In short: "cifar-resnet164, se, sub-attention, from wrn-16-2-seed0"."""
    model = run.recipe.get("model") or {}
    parts = [model.get("name"), model.get("attention")]
    if model.get("gate") not in (None, "sigmoid"):
        parts.append(model["gate"])
    parts += [f"from {PurePosixPath(teacher).name}" for teacher in run.teachers]
    return ", ".join(printable(part) for part in parts if part) or _NONE


def _print_table(runs: Sequence[StoredRun], holders: Mapping[str, str], width: int | None) -> None:
    """As wide as the terminal; None: as the rows are, with nothing cut or broken."""
    columns = {"run": "left", "epochs": "right", "accuracy, %": "right", "network": "left", "seed": "right"}
    columns |= {"version": "left", "state": "left"}
    if width is not None and width < _NARROW:
        del columns["version"]
    if width is not None and width < _NARROWER:
        del columns["network"]
    rows = [_cells(run, holders) for run in runs]
    if width is None:
        # Not by rich, which takes its time for thousands of rows.
        widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in columns}
        for row in [dict(zip(columns, columns, strict=True)), *rows]:
            cells = (
                row[name].rjust(widths[name]) if side == "right" else row[name].ljust(widths[name])
                for name, side in columns.items()
            )
            print("  ".join(cells).rstrip())
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name, side in columns.items():
        if side == "right":  # numbers, which are not broken
            table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
        else:
            longest = max(len(name), *(len(row[name]) for row in rows))
            table.add_column(name, overflow="fold", min_width=min(longest, width // 5))
    for row in rows:
        table.add_row(*(Text(row[name], _STYLES.get(row["kind"], "") if name == "state" else "") for name in columns))
    Console().print(table)


_STYLES = {"broken": "red", "unfinished": "yellow", "running": "cyan", "finished": "green"}


def _cells(run: StoredRun, holders: Mapping[str, str]) -> dict[str, str]:
    accuracy = _accuracy(run)
    state, description = _state(run, holders)
    return {
        "run": printable(run.name),
        "epochs": f"{run.epochs}/{run.epochs_asked}" if run.recipe else _NONE,
        "accuracy, %": _NONE if accuracy is None else f"{100 * accuracy:.2f}",
        "network": _network(run),
        "seed": str(run.seed) if run.recipe else _NONE,
        "version": printable(run.environment.get("regard") or _NONE),
        "state": printable(description),
        "kind": state,
    }


def _totals(runs: Sequence[StoredRun], holders: Mapping[str, str]) -> str:
    """How many runs there are of each state, selected or not."""
    counts = Counter(_state(run, holders)[0] for run in runs)
    kinds = {"finished": "finished", "running": "being run", "unfinished": "unfinished", "broken": "broken"}
    totals = ", ".join(f"{counts[kind]:,} {label}" for kind, label in kinds.items() if counts[kind])
    return f"{len(runs):,} run{'' if len(runs) == 1 else 's'}: {totals}"
