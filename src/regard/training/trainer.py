"""From a recipe to a trained network: what is needed is checked and put together, then the loop runs."""

from __future__ import annotations

import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils import deterministic

from regard import data
from regard.errors import KILLED_WORKER, InputError, LostProcess, SaidElsewhere, first_line
from regard.modes import check_image_size
from regard.training.batch_size import fewest_images, left_out, takes_channels_last
from regard.training.checkpoint import restore
from regard.training.datasets import load_data, make_loader, resolved, test_batch_size
from regard.training.distributed import Processes
from regard.training.hooks import Hook, Mix, Trackers, WeightAverage, check_trackers
from regard.training.loop import Loop, interruptible
from regard.training.networks import build_network, freeze
from regard.training.optimizers import check_optimizer
from regard.training.recipe import Recipe
from regard.training.resume import Record, check_same_run, data_record, difference, one_class
from regard.training.run import Run
from regard.training.sync_norms import sync_norms
from regard.training.teacher import load_teachers
from regard.transfer import TERMS, Objective, Teacher


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run: Run
    finished: bool
    """False if it was asked to stop; it can be resumed."""
    test_accuracy: float | None
    """After the last finished epoch, in [0, 1]."""


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

    On Ctrl-C or SIGTERM it finishes the step, saves a checkpoint and returns. A run resumed from there, or from a
    checkpoint before a crash, ends with the same weights as one never interrupted.

    Started by `accelerate launch`, `torchrun` or `srun`, each process calls this, and they share the work: the batch of
    the recipe is that of all together. The run folder has to be the same for all.

    Args:
        recipe: what to do.
        folder: of the run; made.
        resume: go on with the run in `folder`, if there is one, from its newest checkpoint.
        overwrite: replace a run that is in `folder` already; files that a person put there stay.
        hooks: take part in it, after those of the recipe (mixing, moving average, trackers); such as `Progress()`.
        splits: the data, if they are loaded already; they have to be those of the recipe.

    Raises:
        InputError: something in the recipe, the data, the teacher or the folder is not right (nothing was changed
            then); or the loss is not finite, memory or disk are full, another process is gone (the last good checkpoint
            is kept).
    """
    check(recipe, folder)
    varies = recipe.transfer.uses("full_activation") and recipe.transfer.weight("full_activation").shape != "constant"
    with (
        _settings(recipe),
        Processes(recipe.device, recipe.precision, recipe.wait_minutes, unused=varies) as processes,
        _enough_memory(recipe),
    ):
        return _train(recipe, Run(Path(folder)), processes, hooks, resume, overwrite, splits)


def check(recipe: Recipe, folder: str | Path) -> None:
    """Raises InputError for what is wrong with a recipe, as far as that shows without data and network."""
    recipe.check()
    check_optimizer(recipe.optimizer)
    check_trackers(recipe.trackers)
    for teacher in recipe.transfer.teachers:
        path = Path(os.path.realpath(teacher))
        if Path(os.path.realpath(folder)) in (path, *path.parents):
            raise InputError(f"the run {folder} cannot be its own teacher; name another (transfer.teacher, or --run)")


def _train(
    recipe: Recipe,
    run: Run,
    processes: Processes,
    hooks: Sequence[Hook],
    resume: bool,
    overwrite: bool,
    splits: data.Splits | None,
) -> Outcome:
    hooks = [hook for hook in hooks if processes.main or not hook.main_only]

    def note(message: str) -> None:
        for hook in hooks:
            hook.note(message)

    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", processes.accelerator.mixed_precision):
        note(f"note: accelerate launch was asked for {launched}; the recipe's precision counts, {recipe.precision}")
    processes.alone(lambda: _check_folder(run, resume, overwrite))  # before the data are read
    splits = splits or processes.first(lambda: load_data(recipe.data))  # first, for it may be a download
    recipe = replace(recipe, data=resolved(recipe.data, splits.train))
    record = _record(splits, processes, note)
    if resume:
        processes.alone(lambda: check_same_run(recipe, run, splits.train.classes, record))

    torch.manual_seed(recipe.seed)
    model = _network(recipe, len(splits.train.classes), processes)
    channels_last = recipe.channels_last and takes_channels_last(
        model, recipe, len(splits.train), processes.device, processes.count
    )
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    loader, test_loader = _loaders(recipe, splits, processes, channels_last, note)
    size = loader.image_size
    assert size is not None
    check_image_size(model, torch.empty(1, 3, *size, device="meta"))
    teachers = processes.first(  # for it may be a download
        lambda: load_teachers(recipe.transfer, splits.train, size, processes.device, note, compile=recipe.compile)
    )
    fewest = fewest_images(recipe, model, len(splits.train), size, processes.count)
    objective = make_objective(recipe, model, teachers, size)

    hooks = [*_hooks(recipe, len(splits.train.classes), processes), *hooks]
    try:
        loop = Loop(recipe, run, objective, loader, test_loader, processes, hooks, fewest=fewest)
        loop.begin = lambda: processes.alone(lambda: _begin(loop, splits.train.classes, record, resume))
        if resume:
            restore(loop)
            if processes.main and loop.rows and loop.step == 0:
                run.mend(loop.tested, loop.rows, loop.unreadable)
        with interruptible() as interrupt:
            finished = loop.run_on(interrupt)
    finally:
        for hook in hooks:
            hook.finish()
    return Outcome(run, finished, loop.rows[-1]["test_accuracy"] if loop.rows else None)


def make_objective(
    recipe: Recipe, model: nn.Module, teachers: Sequence[nn.Module | Teacher], image_size: tuple[int, int]
) -> Objective:
    """The losses of a recipe, for a student and the teachers that it names, and images of (h, w).

    Raises:
        InputError: student and teachers do not go together as asked.
    """
    asked = recipe.transfer
    return Objective(
        model,
        teachers or None,
        temperature=asked.temperature,
        layers=asked.layers,
        power=asked.power,
        reduce=asked.reduce,
        form=asked.form,
        label_smoothing=0.0 if recipe.augmentation.mixes else recipe.label_smoothing,  # mixed labels come smoothed
        task=recipe.task,
        image_size=image_size,
        compile=recipe.compile,
        **{term.weight: asked.weight(term.weight) for term in TERMS.values()},
    )


def _check_folder(run: Run, resume: bool, overwrite: bool) -> None:
    if not resume or not (run.folder / "recipe.yaml").is_file():
        Run.check_free(run.folder, overwrite=overwrite)


def _record(splits: data.Splits, processes: Processes, note: Callable[[str], None]) -> Record:
    """What the run records of its images, the same for all processes; notes what there is to know of them.

    Raises:
        InputError: the processes have different images.
    """
    for images in splits:
        if images.skipped:
            names = ", ".join(images.skipped[:3]) + (", …" if len(images.skipped) > 3 else "")
            note(f"{len(images.skipped)} unreadable {images.split} images skipped: {names}")
    record, classes = data_record(splits), splits.train.classes
    (first, *others) = processes.of_all((classes, record))
    for rank, other in enumerate(others, start=1):
        found = difference(*other, *first)
        if found is not None:
            message = f"process {rank} reads other images than process 0: {found}; give all the same (data.folder)"
            raise InputError(message) if processes.main else SaidElsewhere(message)
    only = one_class(classes, record)
    if only is not None:
        note(f"note: all training images are of one class, {only!r}: the accuracy says nothing (data.folder)")
    return record


def _network(recipe: Recipe, classes: int, processes: Processes) -> nn.Module:
    """The network of a recipe on its device, as its training begins."""
    model = processes.first(lambda: build_network(recipe.model, classes))  # first, for it may download weights
    if recipe.sync_norms and processes.count > 1:
        model = sync_norms(model, processes.device)
    freeze(model, recipe.model.frozen, fixed_norms=recipe.model.fixed_norms)
    return model.to(processes.device)


def _loaders(
    recipe: Recipe, splits: data.Splits, processes: Processes, channels_last: bool, note: Callable[[str], None]
) -> tuple[data.Loader, data.Loader]:
    """The batches of training and test."""
    train, test = splits
    batch_size, mixes = recipe.schedule.batch_size, recipe.augmentation.mixes
    if mixes and batch_size % (2 * processes.count):
        raise InputError(
            f"mixup and cutmix take images in pairs; give a batch size that {2 * processes.count} divides "
            f"(schedule.batch_size is {batch_size}, over {processes.count} processes)"
        )
    whole_batches = data.is_streamed(recipe.data.name) or mixes
    left = 0 if whole_batches else left_out(len(train), batch_size, processes.count)
    if left:
        note(f"the last batch of an epoch would have {left} of {len(train)} images, and is left out")
    sliced = {"rank": processes.rank, "world_size": processes.count}
    loader = make_loader(
        train,
        recipe.data,
        batch_size,
        augmentation=recipe.augmentation,
        shuffle=True,
        seed=recipe.seed,
        device=processes.device,
        drop_last=whole_batches or left > 0,
        channels_last=channels_last,
        **sliced,
    )
    test_loader = make_loader(
        test,
        recipe.data,
        test_batch_size(test, recipe.data, processes.count),
        device=processes.device,
        channels_last=channels_last,
        **sliced,
    )
    return loader, test_loader


def _hooks(recipe: Recipe, classes: int, processes: Processes) -> list[Hook]:
    """The hooks that a recipe asks for."""
    hooks: list[Hook] = []
    if recipe.augmentation.mixes:
        hooks.append(Mix(data.Mixing(recipe.augmentation, classes, recipe.seed, recipe.label_smoothing)))
    if recipe.ema:
        hooks.append(WeightAverage(recipe.ema))
    if processes.main and recipe.trackers:
        hooks.append(Trackers(recipe.trackers))
    return hooks


def _begin(loop: Loop, classes: tuple[str, ...], record: Record, resume: bool) -> None:
    """Makes the run folder, or replaces the run in it, or writes that it has more epochs, and starts the hooks.

    This comes after the first step: whatever ends a run before leaves nothing, and a run that is replaced as it was.
    """
    run = loop.run
    resumed = resume and (run.folder / "recipe.yaml").is_file()
    new, replaced = not run.folder.exists(), run.files()
    loop.run_id = (run.environment.get("id") if resumed else None) or uuid.uuid4().hex
    try:
        for hook in loop.hooks:
            hook.start(loop)
        if not resumed:
            run.begin(loop.recipe, classes, replaced, {"id": loop.run_id, "data": record})
        elif not os.access(run.folder, os.W_OK):
            raise InputError(f"the run folder {run.folder} cannot be written; make it writable, or go on with a copy")
        else:
            run.update(loop.recipe.schedule.epochs, loop.recipe.data.unreadable)
    except InputError:
        if new:
            shutil.rmtree(run.folder.resolve(), ignore_errors=True)
        raise


@contextmanager
def _settings(recipe: Recipe) -> Iterator[None]:
    """torch's settings for the run, put back after it."""
    cudnn, threads = torch.backends.cudnn, torch.get_num_threads()
    of_cudnn = cudnn.deterministic, cudnn.benchmark
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = "fill_uninitialized_memory"
    fills = getattr(deterministic, fill)
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    try:
        cudnn.deterministic, cudnn.benchmark = recipe.deterministic, not recipe.deterministic
        torch.use_deterministic_algorithms(recipe.deterministic, warn_only=True)
        setattr(deterministic, fill, False)  # of memory that is written to before it is read
        if recipe.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        with warnings.catch_warnings():
            # Of parameters of one row, such as gates, whose memory is the same in either layout.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield
    finally:
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = of_cudnn
        torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
        setattr(deterministic, fill, fills)
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@contextmanager
def _enough_memory(recipe: Recipe) -> Iterator[None]:
    """Within it, that there is no memory left is an InputError that says what to change; and so is that a DataLoader
    worker was killed, which is mostly for the same reason.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if KILLED_WORKER.search(str(error)):
            raise LostProcess(
                f"a DataLoader worker was killed ({first_line(error)}); if memory ran out, give fewer of them "
                "(data.workers); --resume goes on from the last checkpoint"
            ) from error
        if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)):
            raise
        raise InputError(
            f"there is no memory left ({first_line(error)}); try a smaller batch (schedule.batch_size is "
            f"{recipe.schedule.batch_size}), its parts one after another (schedule.accumulate is "
            f"{recipe.schedule.accumulate}),{' precision bfloat16,' if recipe.precision == 'float32' else ''} "
            "smaller images (data.size, augmentation.crop) or a smaller network"
        ) from error
