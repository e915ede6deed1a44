"""`regard train`: the network of a recipe."""

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

_PAUSES = (2.0, 10.0, 30.0, 60.0)  # seconds before the last upload is tried again


def parser() -> Parser:
    parser = make_parser(
        "train",
        "Trains the network of a recipe. Every field of it is an option here and overrides the file.",
    )
    parser.add_argument(
        "recipe", nargs="?", help="file of YAML, or a name that `regard recipes` lists; the defaults below if not given"
    )
    parser.add_argument(
        "--run", help="run folder to write, or its address s3://bucket/runs/NAME; runs/RECIPE-seedSEED if not given"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in that folder, if there is one")
    parser.add_argument("--overwrite", action="store_true", help="remove a run that is in that folder already")
    training.add_recipe(parser)
    return parser


def main(command: Command) -> int:
    try:
        recipe, run, resume = _parse(command)
    except InputError as error:
        if not command.main:
            raise ReportedElsewhere(str(error)) from error  # every process was told the same
        raise
    place = _in_bucket(command, run) if is_address(run) else _in_folder(command, Path(run))
    with place as (folder, hooks):
        hooks = [training.Progress(command.console), *hooks]
        outcome = training.train(recipe, folder, resume=resume, overwrite=command.options.overwrite, hooks=hooks)
    if not outcome.finished:
        command.note(f"stopped and saved; `regard train --run {run} --resume` goes on")
        return INTERRUPTED
    row = outcome.row or {}
    measure = measure_of(row)
    value = row[measure]
    record = {"run": run, "epochs": recipe.schedule.epochs, measure: value}
    command.show(record, f"{printable(run)}: {MEASURES[measure]} {value:.2%} after the last epoch")
    return 0


@contextmanager
def _in_folder(command: Command, run: Path) -> Iterator[tuple[Path, list[training.Hook]]]:
    """Gives the run folder, in which nobody else works meanwhile, such as `regard reproduce` that fills a table.

    Raises:
        Locked: somebody does.
    """
    place = Path(os.path.realpath(run))  # whatever links lead there
    made = [folder for folder in (place.parent / ".locks", *place.parents) if not folder.exists()]
    try:
        with _lock(place) if command.main else nullcontext():
            yield run, []
    finally:
        for folder in made:
            with suppress(OSError):  # there is something else in it
                folder.rmdir()


def _lock(run: Path) -> Lock:
    """One that holds nothing where beside the run nothing may be written, or the run's name is a hidden one."""
    try:
        return Store(run.parent).lock(run.name)
    except Locked:
        raise
    except InputError:
        return Lock()


@contextmanager
def _in_bucket(command: Command, run: str) -> Iterator[tuple[Path, list[training.Hook]]]:
    """Gives a folder of this machine with what the bucket has of the run, in which nobody else works meanwhile. What
    comes of it is uploaded after every epoch and checkpoint and at the end, after which the folder is removed.

    Raises:
        Locked: somebody works in the run.
        InputError: there is such a run, which is to be neither resumed nor replaced, or the bucket is away at the end.
    """
    options, (store, name) = command.options, split_address(run)
    if command.main and (holder := store.holder(name)) is not None:
        command.note(f"{holder} has {run}; waiting to see whether it is alive")
    with store.lock(name) if command.main else nullcontext(Lock()) as lock:
        folder = store.cache / "train" / name
        with suppress(MissingRun):
            store.fetch(name, folder.parent, checkpoints=options.resume)
            if not (options.resume or options.overwrite):
                message = f"{run} exists already; go on with it (--resume), replace it (--overwrite) or choose another"
                raise InputError(message) if command.main else ReportedElsewhere(message)

        def upload() -> None:
            lock.check()
            store.upload(folder)

        def try_upload(_: Path) -> None:
            """Of a bucket that is away, the next upload brings the rest."""
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
                    message = f"{error}; the run is in {folder}, and with --resume the rest is uploaded"
                    raise InputError(message) from error
                command.note(f"{error}; the upload is tried again in {pause:.0f} s")
                time.sleep(pause)
        shutil.rmtree(folder, ignore_errors=True)


def _parse(command: Command) -> tuple[training.Recipe, str, bool]:
    """What to do, in which run folder, and whether to resume; checked."""
    path, run, resume = (command.options[name] for name in ("recipe", "run", "resume"))
    if run is not None and is_address(run):
        store, name = split_address(run)
        run = run if store.folder is None else str(store.folder / name)
    stored = _stored_recipe(run) if path is None and resume else None
    fields = training.file_arguments(command.parser, stored or path)
    recipe = training.to_recipe(command.parser, command.over(fields))
    if resume and run is not None and path is None and stored is None and _is_default(recipe):
        raise InputError(f"there is no run {run} to go on with; give its folder (--run), or a recipe to begin one")
    run = run or f"runs/{Path(path).stem if path else recipe.model.name}-seed{recipe.seed}"
    training.check(recipe, run)
    return recipe, run, resume


def _is_default(recipe: training.Recipe) -> bool:
    """Whether a recipe changes no more than what may change when a run is resumed."""
    values, defaults = (training.flat(training.plain(one)) for one in (recipe, training.Recipe()))
    given = {name for name, value in values.items() if value != defaults[name]}
    return given <= {*training.WHERE, "schedule.epochs", "data.unreadable"}


def _stored_recipe(run: str | None) -> Path | None:
    """The recipe of a run that is there."""
    if run is None or not (is_address(run) or Path(run).exists()):
        return None
    with suppress(MissingRun):
        return training.Run.open(local_run(run)).folder / "recipe.yaml"
    return None
