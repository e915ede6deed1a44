"""`regard reproduce`: fills a published table with runs."""

from __future__ import annotations

import os
import time

import psutil
import torch
from jsonargparse import Namespace
from rich import box
from rich.table import Table

from regard import data, host, reproduction, tables, training
from regard.commands.settings import add_setting_options, asked_setting, split_name
from regard.commands.studies import listed
from regard.commands.table import DEFAULT, show
from regard.console import Console
from regard.errors import INTERRUPTED, InputError, check_interval
from regard.reproduction import Carried, Cost, Engine, LocalEngine, Plan, RayEngine, duration
from regard.store import Store
from regard.tables.words import counted
from regard.terminal import say

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
    setting, where = asked_setting(parser, options, rest)
    setting = setting or tables.Setting()
    device = training.pick_device(options.device or "auto") if options.engine == "local" else torch.device("cpu")
    elsewhere = options.engine == "ray" and bool(options.gpus)
    if options.engine == "local" and device.type == "cpu" and options.threads is None:
        where["threads"] = 1  # small networks gain little from more, and several runs share the processors
    if options.engine == "ray" and not options.gpus:
        where.setdefault("device", "cpu")  # whatever a machine of the cluster has
        where.setdefault("threads", max(1, int(options.cpus)))
    store = Store(options.runs)
    runs = store.runs()
    plan = reproduction.make_plan(
        table, runs, setting, range(options.seeds), columns=listed(options.columns) or None, where=where
    )
    materials = _Materials()
    cost = None
    if plan.todo and (options.dry_run or options.engine == "local"):
        start = time.time() - psutil.Process().create_time()  # what another will take to import as much
        cost = reproduction.estimate(plan, runs, materials, None if elsewhere else device, start)
    at_once = options.at_once or (_fitting(cost, device, options.threads or 1) if options.engine == "local" else 1)
    _tell(plan, cost, at_once, options)
    if options.dry_run:
        return 0
    carried = Carried(finished={job.name for job in plan.jobs})
    if plan.todo:
        if options.engine == "local":
            materials.check(plan)
        carried = _carry_out(plan, store, options, at_once, device)
    show(tables.fill(table, store.runs(), setting))
    return _ended(carried)


def _parser() -> training.RecipeParser:
    parser = training.RecipeParser(
        prog="regard reproduce",
        usage="regard reproduce NAME [OPTIONS]   (NAME: of a table, see `regard table`, or FILE.yaml)",
        description="Works out which runs a table still needs, carries them out, teachers before students, and ends "
        "with the table. Runs that were interrupted are resumed, those that failed are tried again. The same command "
        "goes on where it was stopped, and may be given on several machines that share a store.",
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each cell: seeds 0, 1, …")
    parser.add_argument("--rows", type=str, default="", help="only these rows, with commas")
    parser.add_argument("--columns", type=str, default="", help="only these columns, and their teachers, with commas")
    parser.add_argument("--runs", type=str, default=DEFAULT, help="the store: a folder of runs, or an fsspec address")
    parser.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="only tell what would be run, and what it costs"
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
    add_setting_options(parser)
    return parser


def _check(options: Namespace) -> None:
    check_interval("--seeds", options.seeds, "[1, 10000]")
    if options.retries < 0:
        raise InputError(f"--retries is {options.retries}; it has to be at least 0")
    if options.at_once is not None and options.at_once < 1:
        raise InputError(f"--at_once is {options.at_once}; it has to be at least 1")
    if options.engine == "local":
        given = [name for name in ("address", "gpus") if options[name] is not None]
        if given:
            raise InputError(f"--{given[0]} is for --engine ray")


class _Materials:
    """The data of recipes, each read once."""

    def __init__(self) -> None:
        self._splits: dict[str, data.Splits] = {}

    def __call__(self, recipe: training.Recipe) -> data.Splits:
        key = repr(recipe.data)
        if key not in self._splits:
            self._splits[key] = training.load_data(recipe.data)
        return self._splits[key]

    def check(self, plan: Plan) -> None:
        """Raises InputError if the data of a run are not there, before hours of work."""
        for job in plan.todo:
            self(job.recipe)
        self._splits.clear()  # the runs read them again, in processes of their own


def _fitting(cost: Cost | None, device: torch.device, threads: int) -> int:
    """How many runs fit on this machine at once, on all its GPUs if none is named."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type != "cuda":
        return max(1, min(processors // threads, int(host.available_memory() / 2**30 / _RUN_MEMORY)))
    need = max((rate.memory for rate in cost.rates.values()), default=0.0) if cost else 0.0
    gpus = list(range(torch.cuda.device_count())) if device.index is None else [device.index]
    free = min(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus) / 2**30
    return max(1, min(int(_GPU_SHARE * free / (need + 1.0)), _MOST_A_GPU) * len(gpus))  # 1 GiB for its own context


def _carry_out(plan: Plan, store: Store, options: Namespace, at_once: int, device: torch.device) -> Carried:
    engine: Engine
    if options.engine == "ray":
        engine = cluster = RayEngine(store, options.address, cpus=options.cpus, gpus=options.gpus or 0.0)
        cluster.check(plan.todo)
    else:
        gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0
        engine = LocalEngine(store, at_once, gpus)
    with training.interruptible() as interrupt:
        return reproduction.carry_out_plan(
            plan, engine, store, retries=options.retries, say=say, stop=lambda: bool(interrupt)
        )


def _tell(plan: Plan, cost: Cost | None, at_once: int, options: Namespace) -> None:
    """The plan; whole for a dry run, else in a few lines."""
    todo = plan.todo
    begun = sum(job.state == "begun" for job in todo)
    budget = f", schedules shortened to {plan.setting.budget:.4g} of their epochs" if plan.setting.budget < 1 else ""
    say(
        f"{plan.table.name}: {counted(len(plan.jobs), 'run')} for {counted(len(plan.seeds), 'seed')}{budget}; "
        f"{len(plan.jobs) - len(todo)} finished, {begun} begun, {len(todo) - begun} missing"
    )
    if plan.without_recipe:
        say(f"{counted(len(plan.without_recipe), 'cell')} of the table have no recipe, and stay empty")
    if options.dry_run and todo:
        _tell_jobs(plan, cost)
    if cost is None or not todo:
        return
    for reason in sorted(set(cost.unknown.values())):
        say(f"cost not known: {reason}")
    if not cost.seconds:
        return
    total = cost.total(todo)
    together = f"; {duration(cost.elapsed(plan, at_once))} with {at_once} at once, if they do not slow one another"
    say(f"cost: {duration(total)} one run at a time{together if min(at_once, len(todo)) > 1 else ''}")
    if options.dry_run:
        for line in _savings(plan, cost):
            say(line)


def _tell_jobs(plan: Plan, cost: Cost | None) -> None:
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
            f"{rate.training:,.0f} ({rate.source})" if rate else "",
            duration(seconds) if seconds else "",
        )
    console = Console()
    if not console.is_terminal:
        console.width = 200  # nothing is cut or folded in a file
    console.print(table)


def _savings(plan: Plan, cost: Cost) -> list[str]:
    """What leaving out a row, a column or the last seed would save."""
    found: list[tuple[float, str]] = []
    rows = {row for job in plan.todo for row, _ in job.cells}
    columns = {column for job in plan.todo for _, column in job.cells}
    if len(rows) > 1:
        found += [(cost.without(plan, 0, row), f"row {row}") for row in rows]
    if len(columns) > 1:
        found += [(cost.without(plan, 1, column), f"column {column}") for column in columns]
    if len(plan.seeds) > 1:
        last = plan.seeds[-1]
        found.append((cost.total([job for job in plan.todo if job.seed == last]), f"the last seed ({last})"))
    order = sorted(found, key=lambda one: (-one[0], one[1]))
    return [f"leaving out {what} saves {duration(seconds)}" for seconds, what in order if seconds > 0]


def _ended(carried: Carried) -> int:
    for name, reason in sorted({**carried.failed, **carried.skipped}.items()):
        say(f"not done: {name}: {reason}")
    if carried.failed:
        say("The same command tries again, from the newest checkpoint; a run whose folder is removed begins anew.")
    if carried.stopped:
        say("stopped; the same command goes on")
        return INTERRUPTED
    return 1 if carried.failed else 0
