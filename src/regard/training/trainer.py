"""From a recipe to a trained network: what is needed is checked and put together, then the loop runs."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from regard import data
from regard.errors import InputError, SaidElsewhere
from regard.files import UNFINISHED, remove_files, written_files
from regard.modes import check_image_size
from regard.training.data_record import Record, check_same_images, data_record, difference, one_class
from regard.training.datasets import is_streamed, load_data, make_loader, resolved, test_batch_size
from regard.training.display import Display
from regard.training.frozen import freeze
from regard.training.interrupt import interruptible
from regard.training.loop import Loop
from regard.training.memory import enough_memory
from regard.training.networks import build_network
from regard.training.objective import make_objective
from regard.training.optimizers import check_optimizer
from regard.training.parts import fewest_images, left_out
from regard.training.processes import Processes, others_there
from regard.training.recipe import WHERE, Recipe, flat, plain
from regard.training.record import mend_record
from regard.training.run import Run
from regard.training.state import restore_state
from regard.training.sync_norms import sync_norms
from regard.training.teacher import load_teachers
from regard.training.trackers import Trackers, check_trackers


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
    display: Display | None = None,
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
        display: told of the progress.
        splits: the data, if they are loaded already; they have to be those of the recipe.

    Raises:
        InputError: something in the recipe, the data, the teacher or the folder is not right (nothing was changed
            then); or the loss is no number, memory or disk are full, another process is gone (the last good checkpoint
            is kept).
    """
    check(recipe, folder)
    varies = recipe.transfer.uses("full_activation") and recipe.transfer.weight("full_activation").shape != "constant"
    with _settings(recipe):
        processes = Processes(recipe.device, recipe.precision, recipe.wait_minutes, unused=varies)
        display = (display or Display()) if processes.main else Display()
        if processes.overruled:
            display.say(
                f"note: accelerate launch was asked for {processes.overruled}; what counts is the recipe's precision, "
                f"{recipe.precision}"
            )
        try:
            with others_there(processes.rank, processes.count), enough_memory(recipe):
                return _train(recipe, Path(folder), processes, resume, overwrite, display, splits)
        finally:
            processes.part()


def check(recipe: Recipe, folder: str | Path) -> None:
    """Raises InputError for what is wrong with a recipe, as far as that shows without data and network."""
    recipe.check()
    check_optimizer(recipe.optimizer)
    check_trackers(recipe.trackers)
    for teacher in recipe.transfer.teachers:
        place = Path(os.path.realpath(teacher))
        if Path(os.path.realpath(folder)) in (place, *place.parents):
            raise InputError(f"the run {folder} cannot be its own teacher; name another (transfer.teacher, or --run)")


def _train(
    recipe: Recipe,
    folder: Path,
    processes: Processes,
    resume: bool,
    overwrite: bool,
    display: Display,
    splits: data.Splits | None,
) -> Outcome:
    processes.alone(lambda: _check_folder(folder, resume, overwrite))  # before the data are read
    train_set, test_set = splits or processes.first(lambda: load_data(recipe.data))  # first, for it may be a download
    for images in (train_set, test_set):
        if images.skipped:
            names = ", ".join(images.skipped[:3]) + (", …" if len(images.skipped) > 3 else "")
            display.say(f"{len(images.skipped)} unreadable {images.split} images skipped: {names}")
    recipe = replace(recipe, data=resolved(recipe.data, train_set))
    run, classes = Run(folder), train_set.classes
    record = data_record(data.Splits(train_set, test_set))
    _check_equal_data(processes, classes, record)
    only = one_class(classes, record)
    if only is not None:
        display.say(f"note: all training images are of one class, {only!r}: the accuracy says nothing (data.folder)")
    if resume:
        processes.alone(lambda: _check_same(recipe, run, classes, record))
    if recipe.augmentation.mixes and recipe.schedule.batch_size % (2 * processes.count):
        raise InputError(
            f"mixup and cutmix take images in pairs; give a batch size that {2 * processes.count} divides "
            f"(schedule.batch_size is {recipe.schedule.batch_size}, over {processes.count} processes)"
        )
    torch.manual_seed(recipe.seed)
    model = _network(recipe, len(train_set.classes), processes)
    channels_last = recipe.channels_last and _takes_channels_last(model, recipe, len(train_set), processes)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    whole_batches = is_streamed(recipe.data) or recipe.augmentation.mixes
    left = 0 if whole_batches else left_out(len(train_set), recipe.schedule.batch_size, processes.count)
    if left:
        display.say(f"the last batch of an epoch would have {left} of {len(train_set)} images, and is left out")
    sliced = {"rank": processes.rank, "world_size": processes.count}
    batches = make_loader(
        train_set,
        recipe.data,
        recipe.schedule.batch_size,
        augmentation=recipe.augmentation,
        shuffle=True,
        seed=recipe.seed,
        device=processes.device,
        drop_last=whole_batches or left > 0,
        channels_last=channels_last,
        **sliced,
    )
    test_batches = make_loader(
        test_set,
        recipe.data,
        test_batch_size(test_set, recipe.data, processes.count),
        device=processes.device,
        channels_last=channels_last,
        **sliced,
    )
    size = batches.image_size
    assert size is not None
    check_image_size(model, torch.empty(1, 3, *size, device="meta"))
    teachers = processes.first(  # first, for their weights may be downloaded
        lambda: load_teachers(recipe.transfer, train_set, size, processes.device, display.say, compile=recipe.compile)
    )
    fewest = fewest_images(recipe, model, len(train_set), size, processes.count)
    objective = make_objective(recipe, model, teachers, size)
    loop = Loop(recipe, run, objective, batches, test_batches, processes, display, fewest)
    loop.begin = lambda: processes.alone(lambda: _begin(loop, classes, record, resume))
    if resume:
        restore_state(loop)
        if processes.main and loop.rows and loop.step == 0:
            mend_record(run, loop.average.kept, loop.rows, loop.unreadable)
    display.start(run.name, recipe.schedule.epochs, len(batches), loop.steps_done)
    try:
        with interruptible() as interrupt:
            finished = loop.run_on(interrupt)
    finally:
        display.stop()
        if loop.trackers is not None:
            loop.trackers.finish()
    return Outcome(run, finished, loop.rows[-1]["test_accuracy"] if loop.rows else None)


def _check_equal_data(processes: Processes, classes: tuple[str, ...], record: Record) -> None:
    """Raises InputError where not all processes have the same images."""
    (first, *others) = processes.of_all((classes, record))
    for rank, other in enumerate(others, start=1):
        found = difference(*other, *first)
        if found is not None:
            message = f"process {rank} reads other images than process 0: {found}; give all the same (data.folder)"
            raise InputError(message) if processes.main else SaidElsewhere(message)


def _network(recipe: Recipe, classes: int, processes: Processes) -> nn.Module:
    """The network of a recipe on its device, as its training begins."""
    model = processes.first(lambda: build_network(recipe.model, classes))  # first, for it may download weights
    if recipe.sync_norms and processes.count > 1:
        model = sync_norms(model, processes.device)
    freeze(model, recipe.model.frozen, fixed_norms=recipe.model.fixed_norms)
    return model.to(processes.device)


def _takes_channels_last(model: nn.Module, recipe: Recipe, images: int, processes: Processes) -> bool:
    """Whether the network can be trained in the channels last layout on so many images.

    On a processor, oneDNN writes the gradient of the weights of a strided 1 x 1 convolution of fewer than 16 channels
    beyond its memory where the number of threads does not divide that of the images (torch 2.14.1, AMD EPYC).
    """
    batch, share = recipe.schedule.batch_size, torch.get_num_threads() * processes.count
    divided = recipe.schedule.accumulate == 1 and batch % share == 0 and images % batch % share == 0
    if processes.device.type != "cpu" or torch.get_num_threads() == 1 or divided:
        return True
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    return not any(
        layer.kernel_size == (1, 1) and layer.stride != (1, 1) and layer.in_channels < 16 for layer in convolutions
    )


def _check_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    if not resume or not (folder / "recipe.yaml").is_file():
        Run.check_free(folder, overwrite=overwrite)


def _begin(loop: Loop, classes: tuple[str, ...], record: Record, resume: bool) -> None:
    """Makes the run folder, or replaces the run in it, or writes that it has more epochs, and starts the trackers.

    This comes after the first step: whatever ends a run before leaves nothing, and a run that is replaced as it was.
    """
    run = loop.run
    new = not run.folder.exists()
    replaced = run.files()
    try:
        loop.trackers = Trackers(loop.recipe.trackers, run.folder, flat(plain(loop.recipe)), loop.display.say)
        if not resume or not (run.folder / "recipe.yaml").is_file():
            run.begin(loop.recipe, classes, replaced, record)
        elif not os.access(run.folder, os.W_OK):
            raise InputError(f"the run folder {run.folder} cannot be written; make it writable, or go on with a copy")
        else:
            run.update(loop.recipe.schedule.epochs, loop.recipe.data.unreadable)
    except InputError:
        if new:
            shutil.rmtree(run.folder.resolve(), ignore_errors=True)
        raise


def _check_same(recipe: Recipe, run: Run, classes: tuple[str, ...], record: Record) -> None:
    """Raises InputError if a run that is there is of another recipe, but for more epochs, or of other images."""
    folder = run.folder
    if not (folder / "recipe.yaml").is_file():
        return
    remove_files(folder, written_files(folder, [UNFINISHED, f"checkpoints/{UNFINISHED}"]))
    now, then = flat(plain(recipe)), flat(plain(run.recipe))
    differing = [name for name in now if now[name] != then.get(name) and name not in WHERE]
    if "transfer.teacher" in differing and _last_parts(recipe) == _last_parts(run.recipe):
        differing.remove("transfer.teacher")  # the runs were moved
    if recipe.schedule.epochs > run.recipe.schedule.epochs:
        differing.remove("schedule.epochs")
    if "data.unreadable" in differing:  # an image broke on the way: put there anew it would be another
        differing.remove("data.unreadable")
    if set(differing) <= {"data.mean", "data.std"}:  # which may have been taken from the images
        check_same_images(run, classes, record)
    if differing:
        changes = ", ".join(f"{name} was {then.get(name)!r}, is {now[name]!r}" for name in differing[:3])
        raise InputError(f"{folder} cannot be resumed with another recipe: {changes} (--overwrite starts anew)")


def _last_parts(recipe: Recipe) -> list[str]:
    return [Path(teacher).name for teacher in recipe.transfer.teachers]


@contextmanager
def _settings(recipe: Recipe) -> Iterator[None]:
    """torch's settings for the run, put back after it."""
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = recipe.deterministic, not recipe.deterministic
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    try:
        with warnings.catch_warnings():
            # Of parameters of one row, such as gates, whose memory is the same in either layout.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
