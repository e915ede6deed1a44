"""`regard train`: trains the network of a recipe."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from regard import training
from regard.cli.command import Command
from regard.cli.options import make_parser
from regard.errors import INTERRUPTED, InputError, Locked, ReportedElsewhere
from regard.formatting import printable
from regard.parser import Parser
from regard.store import Lock, MissingRun, Store, is_address, local_run, split_address
from regard.store.runs import MEASURES, measure_of

_PAUSES = (2.0, 10.0, 30.0, 60.0)  # seconds before each retry of the last upload


def parser() -> Parser:
    parser = make_parser(
        "train",
        "Trains the network of a recipe. Every field of a recipe is also an option, which overrides the file.",
    )
    parser.add_argument(
        "recipe", nargs="?", help="YAML file, or a name that `regard recipes` lists; the defaults below if not given"
    )
    parser.add_argument(
        "--run",
        help="run folder to write to, or an address such as s3://bucket/runs/NAME; runs/RECIPE-seedSEED if not given",
    )
    parser.add_argument("--resume", action="store_true", help="resume the run in the folder, if there is one")
    parser.add_argument("--overwrite", action="store_true", help="remove an existing run in the folder first")
    training.add_recipe(parser)
    return parser


def main(command: Command) -> int:
    try:
        recipe, run, resume = _parse(command)
    except InputError as error:
        if not command.main:
            raise ReportedElsewhere(str(error)) from error  # the first process prints it
        raise
    location = _in_bucket(command, run) if is_address(run) else _in_folder(command, Path(run))
    with location as (folder, hooks):
        hooks = [training.Progress(command.console), *hooks]
        outcome = training.train(recipe, folder, resume=resume, overwrite=command.options.overwrite, hooks=hooks)
    if not outcome.finished:
        command.note(f"stopped and saved; `regard train --run {run} --resume` continues")
        return INTERRUPTED
    row = outcome.row or {}
    measure = measure_of(row)
    value = row[measure]
    record = {"run": run, "epochs": recipe.schedule.epochs, measure: value}
    command.show(record, f"{printable(run)}: {MEASURES[measure]} {value:.2%} after the last epoch")
    return 0


@contextmanager
def _in_folder(command: Command, run: Path) -> Iterator[tuple[Path, list[training.Hook]]]:
    """Locks the run folder and yields it; raises Locked if another process uses it, such as `regard reproduce`."""
    path = Path(os.path.realpath(run))  # the same lock for all links to the folder
    new_folders = [folder for folder in (path.parent / ".locks", *path.parents) if not folder.exists()]
    try:
        with _lock(path) if command.main else nullcontext():
            yield run, []
    finally:
        for folder in new_folders:
            with suppress(OSError):  # not empty
                folder.rmdir()


def _lock(run: Path) -> Lock:
    """The lock of a run; one without effect if the parent folder is read-only or the run's name starts with a dot."""
    try:
        return Store(run.parent).lock(run.name)
    except Locked:
        raise
    except InputError:
        return Lock()


@contextmanager
def _in_bucket(command: Command, run: str) -> Iterator[tuple[Path, list[training.Hook]]]:
    """Locks a run in a bucket and yields a local copy of it, which is uploaded after every epoch and checkpoint and at
    the end, and then removed.
    """
    options, (store, name) = command.options, split_address(run)
    if command.main and (holder := store.holder(name)) is not None:
        command.note(f"{holder} uses {run}; waiting to see whether it is alive")
    with store.lock(name) if command.main else nullcontext(Lock()) as lock:
        folder = store.cache / "train" / name
        with suppress(MissingRun):
            store.fetch(name, folder.parent, checkpoints=options.resume)
            if not (options.resume or options.overwrite):
                message = f"{run} exists already; resume it (--resume), replace it (--overwrite) or choose another"
                raise InputError(message) if command.main else ReportedElsewhere(message)

        def upload() -> None:
            lock.check()
            store.upload(folder)

        def try_upload(_: Path) -> None:
            """If the bucket cannot be reached, the next upload includes these files."""
            try:
                upload()
            except InputError as error:
                command.note(f"{error}; the upload is tried again after the next epoch")

        yield folder, [training.Upload(try_upload)]
        if not command.main:
            return
        for pause in (*_PAUSES, None):
            try:
                upload()
                break
            except InputError as error:
                if pause is None:
                    message = f"{error}; the run is in {folder}; --resume uploads the rest"
                    raise InputError(message) from error
                command.note(f"{error}; the upload is tried again in {pause:.0f} s")
                time.sleep(pause)
        shutil.rmtree(folder, ignore_errors=True)


def _parse(command: Command) -> tuple[training.Recipe, str, bool]:
    """Returns the recipe, the run folder or address, and whether to resume, after checking them."""
    path, run, resume = (command.options[name] for name in ("recipe", "run", "resume"))
    if run is not None and is_address(run):
        store, name = split_address(run)
        run = run if store.folder is None else str(store.folder / name)
    stored = _stored_recipe(run) if path is None and resume else None
    fields = training.file_arguments(command.parser, stored or path)
    recipe = training.to_recipe(command.parser, command.options_over(fields))
    if resume and run is not None and path is None and stored is None and _is_default(recipe):
        raise InputError(f"there is no run {run} to resume; give its folder (--run), or a recipe to start one")
    run = run or f"runs/{Path(path).stem if path else recipe.model.name}-seed{recipe.seed}"
    training.check(recipe, run)
    return recipe, run, resume


def _is_default(recipe: training.Recipe) -> bool:
    """Whether a recipe differs from the defaults only in fields that may change when a run is resumed."""
    values, defaults = (training.flat(training.plain(instance)) for instance in (recipe, training.Recipe()))
    changed = {name for name, value in values.items() if value != defaults[name]}
    return changed <= {*training.WHERE, "schedule.epochs", "data.unreadable"}


def _stored_recipe(run: str | None) -> Path | None:
    """The recipe file of an existing run, or None."""
    if run is None or not (is_address(run) or Path(run).exists()):
        return None
    with suppress(MissingRun):
        return training.Run.open(local_run(run)).folder / "recipe.yaml"
    return None
