"""Trains a recipe: checks it, builds the data, the network and its losses, and runs the training loop."""

from __future__ import annotations

import os
import shutil
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import deterministic

from regard import data
from regard.errors import KILLED_WORKER, InputError, LostProcess, first_line
from regard.training.checkpoint import restore
from regard.training.classification import Classification
from regard.training.detection import Detection
from regard.training.distributed import Processes
from regard.training.hooks import Hook, Trackers, WeightAverage, check_trackers
from regard.training.loop import Loop, interruptible
from regard.training.optimizers import check_optimizer
from regard.training.recipe import Recipe
from regard.training.resume import Record, check_same_run, make_record
from regard.training.run import Run
from regard.training.task import Task


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run."""

    run: Run
    finished: bool
    """False if the run was stopped; it can be resumed."""
    row: dict[str, Any] | None
    """Line of metrics.jsonl of the last finished epoch; None before the first."""


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    hooks: Sequence[Hook] = (),
    splits: data.Splits | None = None,
) -> Outcome:
    """Trains the network of `recipe` in the run folder `folder`.

    On Ctrl-C or SIGTERM it finishes the step, saves a checkpoint and returns. A resumed run ends with the same weights
    as an uninterrupted one.

    Under `accelerate launch`, `torchrun` or `srun`, all processes call this function with the same run folder. The
    batch size of the recipe is that of all processes together.

    Args:
        recipe: recipe of the run.
        folder: run folder to create.
        resume: resume the run in `folder`, if there is one, from its newest checkpoint.
        overwrite: replace a run in `folder`; other files in it are kept.
        hooks: hooks such as `Progress()`, which run after those of the recipe (mixing, moving average, trackers).
        splits: data of the recipe, if they are already loaded.

    Raises:
        InputError: the recipe, data, teacher or folder are invalid (nothing is changed); or the loss is not finite,
            memory or disk are full, or another process ended (the last good checkpoint is kept).
    """
    check(recipe, folder)
    run, features = Run(Path(folder)), recipe.transfer.weight("full_activation")
    resumes = resume and (run.folder / "recipe.yaml").is_file()
    unused = features.used and features.shape != "constant"  # the 1 x 1 convolutions, while the weight is 0
    with (
        _torch_options(recipe),
        Processes(recipe.device, recipe.precision, recipe.wait_minutes, unused=unused) as processes,
        _avoidable_errors(recipe),
    ):
        hooks = processes.hooks = [hook for hook in hooks if processes.main or not hook.main_only]
        launch_precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if launch_precision not in ("no", processes.accelerator.mixed_precision):
            processes.note(
                f"note: accelerate launch has mixed precision {launch_precision}; the precision of the recipe is used"
            )
        processes.alone(lambda: None if resumes else Run.check_free(run.folder, overwrite=overwrite))
        task_type = task_of(recipe)
        splits = splits or processes.first(lambda: task_type.load_data(recipe.data))  # first, because it may download
        images, classes = splits.train, splits.train.classes
        recipe = processes.first(lambda: task_type.completed(recipe, images, processes.note))
        record = make_record(splits, processes, accuracy="accuracy" in task_type.measures)
        processes.alone(lambda: check_same_run(recipe, run, classes, record) if resumes else None)
        torch.manual_seed(recipe.seed)
        task = task_type.create(recipe, splits, processes)
        average = [WeightAverage(recipe.ema)] if recipe.ema else []
        trackers = [Trackers(recipe.trackers)] if recipe.trackers and processes.main else []
        hooks = [*task.hooks(), *average, *trackers, *hooks]
        try:
            loop = Loop(recipe, run, task, processes, hooks)
            loop.begin = lambda: processes.alone(lambda: _begin(loop, classes, record, resumes))
            if resume:
                restore(loop)
                if processes.main and loop.rows and loop.step == 0:
                    run.mend(loop.tested, loop.rows, loop.unreadable)
            with interruptible() as interrupted:
                finished = loop.run_epochs(interrupted)
        finally:
            for hook in hooks:
                hook.finish()
        return Outcome(run, finished, loop.rows[-1] if loop.rows else None)


def check(recipe: Recipe, folder: str | Path) -> None:
    """Raises InputError for errors in a recipe that show without its data and network."""
    recipe.check()
    check_optimizer(recipe.optimizer)
    check_trackers(recipe.trackers)
    for source in recipe.sources:
        path = Path(os.path.realpath(source))
        if Path(os.path.realpath(folder)) in (path, *path.parents):
            raise InputError(
                f"the run {folder} cannot be its own teacher or start from itself; name another (transfer.teacher, "
                "model.pretrained, or --run)"
            )


def task_of(recipe: Recipe) -> type[Task]:
    """The class of the task that a recipe trains: `Classification` or `Detection`."""
    return Classification if recipe.model.detector is None else Detection


def _begin(loop: Loop, classes: tuple[str, ...], record: Record, resumes: bool) -> None:
    """Starts the hooks, and creates or replaces the run folder or updates the run in it.

    Called after the first step, so that an earlier error leaves no new folder and a run to be replaced unchanged.
    """
    run = loop.run
    new, replaced = not run.folder.exists(), run.files()
    loop.run_id = (run.environment.get("id") if resumes else None) or uuid.uuid4().hex
    try:
        for hook in loop.hooks:
            hook.start(loop)
        if not resumes:
            run.begin(loop.recipe, classes, replaced, {"id": loop.run_id, "data": record})
        elif not os.access(run.folder, os.W_OK):
            raise InputError(f"the run folder {run.folder} cannot be written; make it writable, or resume a copy")
        else:
            run.update(loop.recipe.schedule.epochs, loop.recipe.data.unreadable)
    except InputError:
        if new:
            shutil.rmtree(run.folder.resolve(), ignore_errors=True)
        raise


@contextmanager
def _torch_options(recipe: Recipe) -> Iterator[None]:
    """Sets torch's global options for the run, and restores them afterwards."""
    cudnn, workspace = torch.backends.cudnn, "CUBLAS_WORKSPACE_CONFIG"
    strict = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with ExitStack() as undo, warnings.catch_warnings():
        for module, name, value in (
            (cudnn, "deterministic", recipe.deterministic),
            (cudnn, "benchmark", not recipe.deterministic),
            (deterministic, "fill_uninitialized_memory", False),  # slow, and all memory is written before it is read
        ):
            undo.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)
        undo.callback(torch.use_deterministic_algorithms, strict, warn_only=warn_only)
        torch.use_deterministic_algorithms(recipe.deterministic, warn_only=True)
        if recipe.deterministic and workspace not in os.environ:
            undo.callback(os.environ.pop, workspace, None)
            os.environ[workspace] = ":4096:8"
        if recipe.threads is not None:
            undo.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(recipe.threads)
        # A false alarm for parameters of one row, such as those of gates: their memory is the same in both layouts.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        yield


@contextmanager
def _avoidable_errors(recipe: Recipe) -> Iterator[None]:
    """Turns errors that another recipe avoids into InputErrors: full memory, killed workers, batches of one image."""
    schedule = recipe.schedule
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, MemoryError, ValueError) as error:
        if KILLED_WORKER.search(str(error)):
            raise LostProcess(
                f"a DataLoader worker was killed ({first_line(error)}); if memory ran out, use fewer workers "
                "(data.workers); --resume continues from the last checkpoint"
            ) from error
        if "Expected more than 1 value per channel" in str(error):
            raise InputError(
                f"{recipe.model.name} has a batch norm over feature maps of one pixel, which needs two images per "
                f"process, and a process had one; give more images per batch (schedule.batch_size is "
                f"{schedule.batch_size}), or fix the norms (model.fixed_norms)"
            ) from error
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            raise InputError(
                f"memory is full ({first_line(error)}); try a smaller batch (schedule.batch_size is "
                f"{schedule.batch_size}), more micro-batches (schedule.accumulate is "
                f"{schedule.accumulate}),{' precision bfloat16,' if recipe.precision == 'float32' else ''} "
                "smaller images (data.size, augmentation.crop) or a smaller network"
            ) from error
        raise
