"""`regard train`: the network of a recipe."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from jsonargparse import Namespace

from regard import training
from regard.commands.status import INTERRUPTED
from regard.errors import InputError, SaidElsewhere
from regard.launcher import rank_and_size
from regard.reproduction.worker import leave
from regard.store import Claim, Store
from regard.terminal import say


def main(arguments: list[str]) -> int:
    main_process = rank_and_size()[0] == 0
    try:
        recipe, folder, options = _asked(arguments)
    except InputError as error:
        if not main_process:
            raise SaidElsewhere(str(error)) from error  # every process was told the same
        raise
    with _claimed(Path(folder)) if main_process else nullcontext():
        outcome = training.train(
            recipe, folder, resume=options.resume, overwrite=options.overwrite, display=training.Lines()
        )
    if not outcome.finished:
        if main_process:
            say(f"stopped and saved; `regard train --run {folder} --resume` goes on")
        return INTERRUPTED
    if main_process:
        say(f"{folder}: test accuracy {outcome.test_accuracy:.2%} after the last epoch")
    return 0


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Nobody else works in the run folder meanwhile, such as `regard reproduce` that fills a table.

    Raises:
        InputError: somebody does.
    """
    folder = Path(os.path.realpath(folder))  # whatever links lead there
    missing = [place for place in folder.parents if not place.exists()]
    claim = _claim(folder)
    try:
        yield
    finally:
        if claim is not None:
            claim.release()
        for place in missing:
            with suppress(OSError):  # the run is in it
                place.rmdir()


def _claim(folder: Path) -> Claim | None:
    """None where no claim can be made: beside the run nothing may be written, or the run's name is a hidden one."""
    try:
        store = Store(folder.parent)
        claim = store.claim(folder.name, on_loss=leave)
        if claim is None:
            say(f"{store.claimed(folder.name)} has {folder}; waiting to see whether it is alive")
            claim = store.claim(folder.name, wait=True, on_loss=leave)
        holder = None if claim else store.claimed(folder.name)
    except InputError:
        return None
    if claim is None:
        raise InputError(f"{holder or 'another process'} works in {folder}; wait for it, or give another --run")
    return claim


def _asked(arguments: list[str]) -> tuple[training.Recipe, str, Namespace]:
    """What to do, in which run folder, and the other options; checked."""
    parser = training.RecipeParser(
        prog="regard train",
        usage="regard train [RECIPE] [OPTIONS]",
        description="Train the network of a recipe: a YAML file, or a name of `regard recipes`. Every field "
        "of it is an option here and overrides the file.",
    )
    parser.add_argument("--run", type=str, default=None, help="the run folder; runs/<recipe>-seed<seed> if not given")
    parser.add_argument("--resume", action="store_true", help="go on with the run in that folder, if there is one")
    parser.add_argument("--overwrite", action="store_true", help="remove a run that is in that folder already")
    training.add_recipe(parser)
    path = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    options = parser.parse_args([*training.file_arguments(parser, path), *arguments])
    if path is None and options.resume and options.run is not None and Path(options.run).exists():
        stored = training.Run.open(options.run).folder / "recipe.yaml"
        options = parser.parse_args([*training.file_arguments(parser, stored), *arguments])
    recipe = training.to_recipe(parser, options)
    folder = options.run or f"runs/{Path(path).stem if path else recipe.model.name}-seed{recipe.seed}"
    training.check(recipe, folder)
    return recipe, folder, options
