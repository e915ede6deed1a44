"""`regard runs`: lists the runs of a store and their progress. Does not import torch, so that it starts at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from rich import box
from rich.table import Table

from regard.cli.command import Command, result_width
from regard.cli.options import make_parser
from regard.errors import InputError
from regard.formatting import NONE, percent, printable
from regard.parser import Parser
from regard.store import Store, StoredRun
from regard.store.runs import MEASURES, share

_COLUMNS = ("run", "epochs", "accuracy, %", "AP, %", "network", "seed", "version", "state")
_LEAST_WIDTH = {"network": 80, "version": 110}  # least width of the terminal for a column, in characters
_STYLES = {"finished": "green", "running": "cyan", "unfinished": "yellow", "broken": "red"}


def parser() -> Parser:
    parser = make_parser(
        "runs",
        "Lists the runs of a store: the finished epochs of each, its latest test accuracy, or AP for a detector, its "
        "network, its seed, the version of regard that trained it, and whether it is finished, running, unfinished or "
        "broken.",
    )
    parser.add_argument("store", nargs="?", default="runs", help="folder of runs, or an address like s3://bucket/runs")
    parser.add_argument("--unfinished", action="store_true", help="list only unfinished runs")
    return parser


def main(command: Command) -> None:
    options, store = command.options, Store(command.options.store)
    if not store.exists():
        raise InputError(f"there is no store {store.address}; give the folder of your runs, or an address")
    holders = store.locked()
    records = [_record(run, holders) for run in store.runs()]
    listed = [record for record in records if not (options.unfinished and record["state"] == "finished")]
    tables = [_table(listed, result_width())] if listed else []
    command.show(listed, *tables, _totals(records) or "no runs")


def _state(run: StoredRun, holders: Mapping[str, str]) -> tuple[str, str]:
    """The state and its description."""
    if run.name in holders:
        return "running", f"being run by {holders[run.name]}"
    if run.problem:
        return "broken", f"broken: {run.problem}"
    if run.finished:
        return "finished", "finished"
    if 0 < run.epochs_planned <= run.epochs:
        return "broken", "broken: it has no last.safetensors"
    return "unfinished", "unfinished"


def _record(run: StoredRun, holders: Mapping[str, str]) -> dict[str, Any]:
    state, description = _state(run, holders)
    return {
        "run": run.name,
        "epochs": run.epochs,
        "epochs_planned": run.epochs_planned,
        **{measure: share(run.row.get(measure)) for measure in MEASURES},
        "network": _network(run),
        "seed": run.seed if run.recipe else None,
        "version": run.environment.get("regard"),
        "state": state,
        "about": description,
    }


def _network(run: StoredRun) -> str:
    """A short description of the network: "cifar-resnet164, se, sub-attention, from wrn-16-2-seed0"."""
    model = run.recipe.get("model") or {}
    parts = [model.get("detector"), model.get("name"), model.get("attention")]
    if model.get("gate") not in (None, "sigmoid"):
        parts.append(model["gate"])
    parts += [f"from {PurePosixPath(teacher).name}" for teacher in run.teachers]
    return ", ".join(printable(part) for part in parts if part) or NONE


def _table(records: Sequence[Mapping[str, Any]], width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = [column for column in _COLUMNS if width >= _LEAST_WIDTH.get(column, 0)]
    measured = {measure for measure in MEASURES for record in records if record[measure] is not None}
    hidden = "AP, %" if "test_box_ap" not in measured else "accuracy, %" if measured == {"test_box_ap"} else None
    columns = [column for column in columns if column != hidden]
    for column in columns:
        numbers = column in ("epochs", "accuracy, %", "AP, %", "seed")
        table.add_column(column, justify="right" if numbers else "left", no_wrap=numbers, overflow="fold")
    for record in records:
        cells = _cells(record)
        table.add_row(*(cells[column] for column in columns), style=_STYLES[record["state"]])
    return table


def _cells(record: Mapping[str, Any]) -> dict[str, str]:
    has_recipe = record["seed"] is not None
    return {
        "run": printable(record["run"]),
        "epochs": f"{record['epochs']}/{record['epochs_planned']}" if has_recipe else NONE,
        "accuracy, %": percent(record["test_accuracy"], 2),
        "AP, %": percent(record["test_box_ap"], 2),
        "network": record["network"],
        "seed": str(record["seed"]) if has_recipe else NONE,
        "version": printable(record["version"] or NONE),
        "state": printable(record["about"]),
    }


def _totals(records: Sequence[Mapping[str, Any]]) -> str:
    """The number of runs in each state, listed or not."""
    counts = Counter(record["state"] for record in records)
    return ", ".join(f"{state}: {counts[state]:,}" for state in _STYLES if counts[state])
