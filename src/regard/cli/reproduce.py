"""`regard reproduce`: trains the runs that a published table needs."""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch

from regard import host, reproduction, tables, training
from regard.cli.command import Command
from regard.cli.options import add_device, make_parser
from regard.cli.table import DEFAULT, add_overrides, parse_overrides, show
from regard.columns import Column
from regard.errors import INTERRUPTED, InputError
from regard.formatting import counted, duration
from regard.parser import Parser, strings
from regard.report import records_table
from regard.reproduction import Cost, Executor, Job, LocalExecutor, Outcome, Plan, RayExecutor
from regard.store import Store
from regard.terminal import command_line

_RUN_MEMORY = 3.0  # GiB that a run on the CPU needs, measured on CIFAR-10
_GPU_SHARE = 0.9  # largest share of a GPU's memory for all its runs
_MAX_RUNS_PER_GPU = 4  # more runs only wait for each other
_JOBS = (
    *(Column("run", "run"), Column("state", "state"), Column("epochs", "epochs", "count")),
    *(Column("epochs_done", "finished epochs", "count"), Column("teacher", "teacher")),
    *(Column("images_per_second", "images/s", "count", detail="rate_from"), Column("seconds", "cost", "duration")),
)
_SAVINGS = (Column("part", "leaving out"), Column("name", ""), Column("saved", "saves"))


def parser() -> Parser:
    parser = make_parser(
        "reproduce",
        "Finds the runs that a table still needs, trains them, teachers before students, and prints the table. "
        "Interrupted runs are resumed, and failed runs are tried again. After an interruption the same command "
        "resumes. It may run on several machines that share a store.",
    )
    parser.add_argument("table", help="name of a table, as `regard table` lists them, or a file TABLE.yaml")
    parser.add_argument("--seeds", type=int, default=5, interval="[1, 10000]", help="number of seeds per cell: 0, 1, …")
    parser.add_argument("--rows", type=strings, default=[], help="rows to fill; all if not given")
    parser.add_argument(
        "--columns", type=strings, default=[], help="columns to fill, including their teachers; all if not given"
    )
    parser.add_argument("--runs", default=DEFAULT, help="store of the runs: a folder or an address")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and their cost without training them")
    parser.add_argument("--commands", action="store_true", help="print the commands, for a job array or GNU parallel")
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="where to train: on this machine, or on a Ray cluster",
    )
    parser.add_argument(
        "--at-once",
        type=int,
        interval="[1, 10000]",
        help="number of parallel runs on this machine; as many as fit if not given",
    )
    parser.add_argument("--address", help="address of the Ray cluster: auto, ray://HOST:10001; a new one if not given")
    parser.add_argument("--gpus", type=float, help="number of GPUs per run on Ray; 0.25 for four runs on one GPU")
    parser.add_argument("--cpus", type=float, default=1, help="number of CPU cores per run on Ray")
    parser.add_argument(
        "--retries", type=int, default=2, interval="[0, 10000]", help="number of retries of a failed run"
    )
    add_device(parser)
    parser.add_argument("--threads", type=int, help="number of threads of a run on the CPU; 1 if not given")
    parser.add_argument("--save-minutes", type=float, help="minutes between checkpoints within an epoch")
    add_overrides(parser)
    return parser


def main(command: Command) -> int:
    options = command.options
    for name in ("address", "gpus") if options.engine == "local" else ():
        if options[name] is not None:
            raise InputError(f"--{name} is for --engine ray")
    table = tables.load_table(options.table).only(options.rows or None)
    overrides, where = parse_overrides(command)
    overrides = overrides or tables.Overrides()
    local = options.engine == "local" and not options.commands
    device = training.pick_device(options.device) if local else torch.device("cpu")
    if local and device.type == "cpu":
        where.setdefault("threads", 1)  # more threads help small networks little, and several runs share the cores
    if options.engine == "ray" and not options.gpus:
        where.setdefault("device", "cpu")  # even if the machines of the cluster have GPUs
        where.setdefault("threads", max(1, int(options.cpus)))
    store = Store(options.runs)
    runs = store.runs()
    plan = reproduction.make_plan(
        table,
        runs,
        overrides,
        range(options.seeds),
        store=str(store.folder or store.address),
        columns=options.columns or None,
        where=where,
    )
    if options.commands:
        for number, level in enumerate(plan.levels):
            print("\n" * (number > 0) + "\n".join(command_line(job.command) for job in level))
        return 0
    cost = None
    if plan.todo and (options.dry_run or local):
        command.note("reading the data and timing a few training steps to estimate the cost")
        start = time.time() - psutil.Process().create_time()  # seconds that a new process needs for the imports
        cost = reproduction.estimate(plan, runs, None if options.gpus else device, start)
    slots = options.at_once or (_fitting(cost, device, options.threads or 1) if local else 1)
    _show_plan(command, plan, cost, slots)
    if options.dry_run:
        return 0
    if cost is not None and cost.unreadable:  # fails before hours of training
        raise InputError(next(iter(cost.unreadable.values())))
    outcome = Outcome()
    if plan.todo:
        executor = _executor(command, plan, slots, device)
        with training.interruptible() as interrupted:
            outcome = reproduction.run_plan(
                plan, executor, store, retries=options.retries, log=command.note, stop=interrupted
            )
    show(command, tables.fill(table, store.runs(), overrides))
    return _status(command, outcome)


def _fitting(cost: Cost | None, device: torch.device, threads: int) -> int:
    """The number of runs that fit on this machine at once, on all its GPUs unless the device is one of them."""
    if device.type != "cuda":
        return max(1, min(host.processors() // threads, int(host.available_memory() / 2**30 / _RUN_MEMORY)))
    run_memory = max((rate.memory for rate in cost.rates.values()), default=0.0) if cost else 0.0
    gpus = list(range(torch.cuda.device_count())) if device.index is None else [device.index]
    free = min(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus) / 2**30
    return max(1, min(int(_GPU_SHARE * free / (run_memory + 1.0)), _MAX_RUNS_PER_GPU) * len(gpus))  # 1 GiB for CUDA


def _executor(command: Command, plan: Plan, slots: int, device: torch.device) -> Executor:
    options = command.options
    if options.engine == "local":
        gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0
        return LocalExecutor(slots, gpus)
    cluster = RayExecutor(options.address, cpus=options.cpus, gpus=options.gpus or 0.0, retries=options.retries)
    cluster.check(plan.todo)
    command.note(f"{counted(len(plan.todo), 'run')} submitted to Ray")
    return cluster


def _show_plan(command: Command, plan: Plan, cost: Cost | None, slots: int) -> None:
    """Prints the totals of the plan as notes and, with --dry-run, every run as a result."""
    todo = plan.todo
    begun = sum(job.state == "begun" for job in todo)
    totals = {
        "runs": f"{len(plan.jobs)} ({len(plan.jobs) - len(todo)} finished, {begun} begun, {len(todo) - begun} missing)",
        "seeds": f"{len(plan.seeds)}",
        "share of the epochs": f"{plan.overrides.shorten:.4g}" if plan.overrides.shorten < 1 else "",
        "cells without a recipe": f"{len(plan.without_recipe) or ''}",
    }
    if cost is not None and todo:
        totals["cost not known"] = "; ".join(sorted(set(cost.unknown.values())))
        if cost.seconds:
            totals["cost, one run at a time"] = duration(cost.total(todo))
            if min(slots, len(todo)) > 1:
                totals[f"cost, {slots} at once"] = duration(cost.elapsed(plan, slots))
    for name, text in totals.items():
        if text:
            command.note(f"{name}: {text}")
    if command.options.dry_run:
        jobs = [_record(job, cost) for job in plan.jobs]
        savings = _savings(plan, cost) if cost is not None else []
        tables = [records_table(jobs, _JOBS)] if todo else []
        tables += [records_table(savings, _SAVINGS)] if savings else []
        command.show(jobs, *tables)


def _record(job: Job, cost: Cost | None) -> dict[str, Any]:
    rate = cost.rates.get(job.name) if cost else None
    return {
        "run": job.name,
        "state": job.state,
        "epochs": job.epochs,
        "epochs_done": job.epochs_done,
        "teacher": job.teacher,
        "images_per_second": rate and round(rate.images_per_second),
        "rate_from": rate and rate.source,
        "seconds": cost.seconds.get(job.name) if cost else None,
    }


def _savings(plan: Plan, cost: Cost) -> list[dict[str, Any]]:
    """The cost that leaving out each row, each column or the last seed saves, largest first."""
    savings: list[tuple[str, str, float]] = []
    for axis, kind in enumerate(("row", "column")):
        keys = {cell[axis] for job in plan.todo for cell in job.cells}
        for key in sorted(keys) if len(keys) > 1 else ():
            jobs = [job for job in plan.todo if all(cell[axis] == key for cell in job.cells)]
            savings.append((kind, key, cost.total(jobs)))
    if len(plan.seeds) > 1:
        last = plan.seeds[-1]
        savings.append(("last seed", str(last), cost.total(job for job in plan.todo if job.recipe.seed == last)))
    savings.sort(key=lambda saving: -saving[2])
    return [{"part": part, "name": name, "saved": duration(seconds)} for part, name, seconds in savings if seconds > 0]


def _status(command: Command, outcome: Outcome) -> int:
    """Prints the runs that are not done, and returns the exit status."""
    for name, reason in sorted({**outcome.failed, **outcome.skipped}.items()):
        command.note(f"not done: {name}: {reason}")
    if outcome.failed:
        command.note("the same command retries from the newest checkpoint; remove a run's folder to start it over")
    if outcome.stopped:
        command.note("stopped; the same command resumes")
        return INTERRUPTED
    return 1 if outcome.failed else 0
