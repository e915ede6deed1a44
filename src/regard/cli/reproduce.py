"""`regard reproduce`: fills a published table with runs."""

from __future__ import annotations

import os
import time

import psutil
import torch
from jsonargparse import Namespace
from rich import box
from rich.table import Table

from regard import host, reproduction, tables, training
from regard.cli.settings import add_overrides, given_overrides, split_name
from regard.cli.table import DEFAULT, show
from regard.console import Console
from regard.errors import INTERRUPTED, InputError, check_interval
from regard.formatting import counted, duration
from regard.reproduction import Cost, Executor, LocalExecutor, Outcome, Plan, RayExecutor
from regard.store import Store
from regard.terminal import command_line, listed, say

_RUN_MEMORY = 3.0  # GiB of a run on the processor, as of one on CIFAR-10
_GPU_SHARE = 0.9  # of the memory of a GPU that runs may take together
_MOST_A_GPU = 4  # runs; more wait for one another


def main(arguments: list[str]) -> int:
    parser = _parser()
    name, rest = split_name(arguments)
    options = parser.parse_args(rest)
    if name is None:
        raise InputError(f"name a table right after the command; known: {', '.join(tables.table_names())}")
    _check(options)
    table = tables.load_table(name).only(listed(options.rows) or None)
    overrides, where = given_overrides(parser, options, rest)
    overrides = overrides or tables.Overrides()
    local = options.engine == "local" and not options.commands
    device = training.pick_device(options.device or "auto") if local else torch.device("cpu")
    if local and device.type == "cpu":
        where.setdefault("threads", 1)  # small networks gain little from more, and several runs share the processors
    if options.engine == "ray" and not options.gpus:
        where.setdefault("device", "cpu")  # whatever a machine of the cluster has
        where.setdefault("threads", max(1, int(options.cpus)))
    store = Store(options.runs)
    runs = store.runs()
    columns = listed(options.columns) or None
    plan = reproduction.make_plan(
        table,
        runs,
        overrides,
        range(options.seeds),
        store=str(store.folder or store.address),
        columns=columns,
        where=where,
    )
    if options.commands:
        for number, level in enumerate(plan.levels):
            print("\n" * (number > 0) + "\n".join(command_line(job.command) for job in level))
        return 0
    cost = None
    if plan.todo and (options.dry_run or local):
        say("reading the data and timing a few training steps, to tell the cost", error=True)
        start = time.time() - psutil.Process().create_time()  # what another will take to import as much
        cost = reproduction.estimate(plan, runs, None if options.gpus else device, start)
    slots = options.at_once or (_fitting(cost, device, options.threads or 1) if local else 1)
    _print_plan(plan, cost, slots, options)
    if options.dry_run:
        return 0
    if cost is not None and cost.unreadable:  # before hours of work
        raise InputError(next(iter(cost.unreadable.values())))
    outcome = Outcome()
    if plan.todo:
        executor = _executor(plan, options, slots, device)
        with training.interruptible() as interrupted:
            outcome = reproduction.run_plan(plan, executor, store, retries=options.retries, say=say, stop=interrupted)
    show(tables.fill(table, store.runs(), overrides))
    return _status(outcome)


def _parser() -> training.RecipeParser:
    parser = training.RecipeParser(
        prog="regard reproduce",
        usage="regard reproduce NAME [OPTIONS]   (NAME: of a table, see `regard table`, or FILE.yaml)",
        description="Works out which runs a table still needs, runs them, teachers before students, and ends with the "
        "table. Runs that were interrupted are resumed, those that failed are tried again. The same command "
        "goes on where it was stopped, and may be given on several machines that share a store.",
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each cell: seeds 0, 1, …")
    parser.add_argument("--rows", type=str, default="", help="only these rows, with commas")
    parser.add_argument("--columns", type=str, default="", help="only these columns, and their teachers, with commas")
    parser.add_argument("--runs", type=str, default=DEFAULT, help="the store: a folder of runs, or an fsspec address")
    parser.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="only tell what would be run, and what it costs"
    )
    parser.add_argument(
        "--commands", action="store_true", help="only print the commands of the runs, for a job array or GNU parallel"
    )
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="this machine, or a Ray cluster")
    parser.add_argument("--at_once", type=int, default=None, help="runs at a time on this machine; as many as fit")
    parser.add_argument("--address", type=str, default=None, help="of the Ray cluster: auto, ray://HOST:10001; new one")
    parser.add_argument("--gpus", type=float, default=None, help="with Ray, of each run: 1, or 0.25 for four on one")
    parser.add_argument("--cpus", type=float, default=1, help="with Ray, processors of each run")
    parser.add_argument("--retries", type=int, default=2, help="how often a run that failed is tried again")
    parser.add_argument("--device", type=str, default=None, help="auto, cpu, cuda, …")
    parser.add_argument("--threads", type=int, default=None, help="of a run on the processor; 1 if not given")
    parser.add_argument("--save_minutes", type=float, default=None, help="between checkpoints within an epoch")
    add_overrides(parser)
    return parser


def _check(options: Namespace) -> None:
    check_interval("--seeds", options.seeds, "[1, 10000]")
    check_interval("--retries", options.retries, "[0, 10000]")
    if options.at_once is not None:
        check_interval("--at_once", options.at_once, "[1, 10000]")
    if options.engine == "local":
        given = [name for name in ("address", "gpus") if options[name] is not None]
        if given:
            raise InputError(f"--{given[0]} is for --engine ray")


def _fitting(cost: Cost | None, device: torch.device, threads: int) -> int:
    """How many runs fit on this machine at once, on all its GPUs if none is named."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type != "cuda":
        return max(1, min(processors // threads, int(host.available_memory() / 2**30 / _RUN_MEMORY)))
    need = max((rate.memory for rate in cost.rates.values()), default=0.0) if cost else 0.0
    gpus = list(range(torch.cuda.device_count())) if device.index is None else [device.index]
    free = min(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus) / 2**30
    return max(1, min(int(_GPU_SHARE * free / (need + 1.0)), _MOST_A_GPU) * len(gpus))  # 1 GiB for its own context


def _executor(plan: Plan, options: Namespace, slots: int, device: torch.device) -> Executor:
    if options.engine == "local":
        gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0
        return LocalExecutor(slots, gpus)
    cluster = RayExecutor(options.address, cpus=options.cpus, gpus=options.gpus or 0.0, retries=options.retries)
    cluster.check(plan.todo)
    say(f"{counted(len(plan.todo), 'run')} given to Ray")
    return cluster


def _print_plan(plan: Plan, cost: Cost | None, slots: int, options: Namespace) -> None:
    """The plan; whole for a dry run, else in a few lines."""
    todo = plan.todo
    begun = sum(job.state == "begun" for job in todo)
    shorten = plan.overrides.shorten
    short = f", schedules shortened to {shorten:.4g} of their epochs" if shorten < 1 else ""
    say(
        f"{plan.table.name}: {counted(len(plan.jobs), 'run')} for {counted(len(plan.seeds), 'seed')}{short}; "
        f"{len(plan.jobs) - len(todo)} finished, {begun} begun, {len(todo) - begun} missing"
    )
    if plan.without_recipe:
        say(f"{counted(len(plan.without_recipe), 'cell')} of the table have no recipe, and stay empty")
    if options.dry_run and todo:
        _print_jobs(plan, cost)
    if cost is None or not todo:
        return
    for reason in sorted(set(cost.unknown.values())):
        say(f"cost not known: {reason}")
    if not cost.seconds:
        return
    total = cost.total(todo)
    together = f"; {duration(cost.elapsed(plan, slots))} with {slots} at once, if they do not slow one another"
    say(f"cost: {duration(total)} one run at a time{together if min(slots, len(todo)) > 1 else ''}")
    if options.dry_run:
        for line in _savings(plan, cost):
            say(line)


def _print_jobs(plan: Plan, cost: Cost | None) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("run", "state", "epochs", "after", "images/s", "cost"):
        table.add_column(heading, overflow="fold", justify="right" if heading in ("images/s", "cost") else "left")
    for job in plan.jobs:
        rate = cost.rates.get(job.name) if cost else None
        seconds = cost.seconds.get(job.name) if cost else None
        table.add_row(
            job.name,
            job.state,
            f"{job.epochs_done}/{job.epochs}" if job.state != "missing" else str(job.epochs),
            job.teacher or "",
            f"{rate.images_per_second:,.0f} ({rate.source})" if rate else "",
            duration(seconds) if seconds else "",
        )
    console = Console()
    if not console.is_terminal:
        console.width = 200  # nothing is cut or folded in a file
    console.print(table)


def _savings(plan: Plan, cost: Cost) -> list[str]:
    """What leaving out a row, a column or the last seed would save, most first."""
    seconds: dict[str, float] = {}
    for axis, kind in enumerate(("row", "column")):
        keys = {cell[axis] for job in plan.todo for cell in job.cells}
        for key in keys if len(keys) > 1 else ():
            alone = [job for job in plan.todo if all(cell[axis] == key for cell in job.cells)]
            seconds[f"{kind} {key}"] = cost.total(alone)
    if len(plan.seeds) > 1:
        last = plan.seeds[-1]
        seconds[f"the last seed ({last})"] = cost.total(job for job in plan.todo if job.recipe.seed == last)
    order = sorted(seconds, key=lambda what: (-seconds[what], what))
    return [f"leaving out {what} saves {duration(seconds[what])}" for what in order if seconds[what] > 0]


def _status(outcome: Outcome) -> int:
    """The exit status; says what is not done."""
    for name, reason in sorted({**outcome.failed, **outcome.skipped}.items()):
        say(f"not done: {name}: {reason}")
    if outcome.failed:
        say("The same command tries again, from the newest checkpoint; a run whose folder is removed begins anew.")
    if outcome.stopped:
        say("stopped; the same command goes on")
        return INTERRUPTED
    return 1 if outcome.failed else 0
