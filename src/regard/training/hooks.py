"""Hooks of the training loop: training techniques, trackers and the progress display."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.console
import rich.progress
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.text import Text
from timm.utils import ModelEmaV3
from torch import Tensor

from regard.console import Console
from regard.data import Batch, Mixing
from regard.errors import InputError, one_line
from regard.formatting import duration, printable
from regard.store.runs import MEASURES, measure_of
from regard.training.recipe import flat, plain

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from regard.training.loop import Loop


class Hook:
    """Base class of objects whose methods are called during a run. By default they do nothing.

    Attributes:
        main_only: whether only the main process has the hook; by default all processes have it.
    """

    main_only = False

    def setup(self, loop: Loop) -> None:
        """Called when the loop is created, before a checkpoint is restored."""

    def start(self, loop: Loop) -> None:
        """Called in the main process after the first step, before the run folder is created. May raise InputError."""

    def before_step(self, loop: Loop, batch: Batch) -> Batch:
        """Called before a step; returns the batch to use in it."""
        return batch

    def after_step(self, loop: Loop) -> None:
        """Called after a step of the optimizer; `loop.steps_done` includes it."""

    def after_check(self, loop: Loop, means: dict[str, float]) -> None:
        """Called about once per second, after the losses were read and `loop.images_per_second` was updated.

        `means` are the means over the epoch so far: `loss`, its terms, `accuracy`, `gradient_norm`.
        """

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        """Called after the test and before the checkpoint; `row` becomes the epoch's line of metrics.jsonl."""

    def after_checkpoint(self, loop: Loop) -> None:
        """Called in the main process after a checkpoint was saved, within an epoch or at its end."""

    def note(self, message: str) -> None:
        """Called with a message of one line for the user."""

    def finish(self) -> None:
        """Called at the end of the run, also after an error."""

    def state_dict(self) -> dict[str, Any]:
        """State to save in a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state from `state_dict`."""


def by_name(hooks: Sequence[Hook]) -> dict[str, Hook]:
    """Hooks by class name; a second hook of the same class is called "Name 2", and so on."""
    names = [type(hook).__name__ for hook in hooks]
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return {
        name if count == 1 else f"{name} {count}": hook for name, count, hook in zip(names, counts, hooks, strict=True)
    }


class WeightAverage(Hook):
    """Moving average of weights and buffers (timm's `ModelEmaV3`), which is tested and saved instead of the network.

    The decay per step grows over the first steps as `1 - (1 + step) ^ (-2 / 3)` up to `decay`, in (0, 1), so that the
    initial weights matter little in a short run.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def setup(self, loop: Loop) -> None:
        self._average = ModelEmaV3(loop.model, self.decay, use_warmup=True)
        loop.tested = self._average.module

    def after_step(self, loop: Loop) -> None:
        self._average.update(loop.model, step=loop.steps_done)

    def state_dict(self) -> dict[str, Any]:
        return self._average.module.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average.module.load_state_dict(state)


class Mix(Hook):
    """Mixup and CutMix."""

    def __init__(self, mixing: Mixing) -> None:
        self.mixing = mixing

    def before_step(self, loop: Loop, batch: Batch) -> Batch:
        images, labels = self.mixing(batch.images, batch.labels, loop.steps_done)
        return batch._replace(images=images, labels=labels)


class Guided(Hook):
    """Counts the images with a region in each batch, over all processes; `share` is their fraction, 1 without any."""

    share: Tensor

    def before_step(self, loop: Loop, batch: Batch) -> Batch:
        assert batch.masks is not None
        count = loop.processes.summed(batch.masks.flatten(1).any(1).sum()).float()
        self.share = count.where(count > 0, batch.total) / batch.total
        return batch


class Upload(Hook):
    """Calls `upload` with the run folder after every checkpoint."""

    main_only = True

    def __init__(self, upload: Callable[[Path], object]) -> None:
        self.upload = upload

    def after_checkpoint(self, loop: Loop) -> None:
        self.upload(loop.run.folder)


class Trackers(Hook):
    """Logs metrics with the trackers of accelerate: tensorboard, wandb, mlflow. Local logs go to the run folder."""

    main_only = True

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._trackers: list[GeneralTracker] = []

    def start(self, loop: Loop) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        self._note = loop.processes.note
        folder = loop.run.folder.resolve()
        fields = {
            name: value if isinstance(value, int | float | str) else json.dumps(value)
            for name, value in flat(plain(loop.recipe)).items()
        }
        for name in self.names:
            tracker_class = LOGGER_TYPE_TO_CLASS[name]
            options: dict[str, Any] = {"logging_dir": str(folder)} if tracker_class.requires_logging_directory else {}
            if name == "wandb":  # a resumed run continues the tracker's run
                options.update(name=folder.name, id=loop.run_id, resume="allow", dir=str(folder))
            if name == "mlflow":
                options["run_name"] = folder.name
            try:
                tracker = tracker_class("regard" if name != "tensorboard" else "tensorboard", **options)
                tracker.start()
                tracker.store_init_configuration(fields)
            except Exception as error:  # a tracker may raise any error
                raise InputError(f"tracker {name} cannot start ({one_line(error)[:200]})") from error
            self._trackers.append(tracker)

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        self._call_all(lambda tracker: tracker.log(row, step=loop.steps_done))

    def finish(self) -> None:
        self._call_all(lambda tracker: tracker.finish())

    def _call_all(self, method: Callable[[GeneralTracker], object]) -> None:
        for tracker in self._trackers:
            try:
                method(tracker)
            except Exception as error:  # a tracker may raise any error; the same metrics are in the run folder
                self._note(f"tracker {tracker.name} failed ({one_line(error)[:200]}); the run goes on")


def check_trackers(names: Sequence[str]) -> None:
    """Raises InputError for a tracker whose package is not installed."""
    from accelerate import utils

    for name in names:
        if not getattr(utils, f"is_{name}_available")():
            raise InputError(f"trackers has {name}, which is not installed (pip install {name})")


class Progress(Hook):
    """Prints one line per epoch, and shows a progress bar on a terminal."""

    main_only = True

    def __init__(self, console: rich.console.Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True)
        self.bar: rich.progress.Progress | None = None
        self.start_time, self.first_step = time.monotonic(), -1
        self.reported: set[str] = set()  # unreadable files

    def setup(self, loop: Loop) -> None:
        self.start_time, self.total = time.monotonic(), loop.recipe.schedule.epochs * len(loop.loader)
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self.bar = rich.progress.Progress(*columns, console=self.console, transient=True)
            self.bar.add_task(printable(loop.run.name), total=self.total, note="")
            self.bar.start()

    def after_check(self, loop: Loop, means: dict[str, float]) -> None:
        if self.first_step < 0:  # losses are first read after the first step
            self.first_step = loop.steps_done - 1
        if self.bar is not None:
            train = f"  train {means['accuracy']:.1%}" if "accuracy" in means else ""
            note = (
                f"loss {means.get('loss', 0):.3f}{train}  {loop.images_per_second:,.0f} images/s  "
                f"{self._remaining(loop)} left"
            )
            self.bar.update(self.bar.task_ids[0], completed=loop.steps_done, note=note)

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        losses = ""  # if every step was skipped
        if "loss" in row:
            terms = "".join(f"  {name} {row[name]:.3g}" for name in loop.meter.terms if row[name] and name != "task")
            train = f"  train {row['accuracy']:.2%}" if "accuracy" in row else ""
            losses = f"loss {row['loss']:.4f}{terms}{train}  gradient {row['gradient_norm']:.3g}  "
        remaining = f"  {self._remaining(loop)} left" if loop.steps_done < self.total else ""
        measure = measure_of(row)
        self.console.print(
            f"epoch {row['epoch']}/{loop.recipe.schedule.epochs}  {losses}{MEASURES[measure]} {row[measure]:.2%}  "
            f"lr {row['lr']:.3g}  {row['images_per_second']:,.0f} images/s, {row['waiting']:.0%} waiting  "
            f"{row['peak_memory']:.2g} GiB{remaining}"
        )
        if row["skipped_steps"]:
            self.note(f"{row['skipped_steps']} steps were skipped: their gradients were infinite or NaN")
        new = [name for name in loop.unreadable if name not in self.reported]
        if new:
            self.reported.update(new)
            more = f" and {len(new) - 3} more" if len(new) > 3 else ""
            self.note(f"{len(new)} images could not be read: {'; '.join(new[:3])}{more} (all in unreadable.txt)")

    def note(self, message: str) -> None:
        self.console.print(Text(printable(message)))

    def finish(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _remaining(self, loop: Loop) -> str:
        seconds_per_step = (time.monotonic() - self.start_time) / max(loop.steps_done - self.first_step, 1)
        return duration(seconds_per_step * (self.total - loop.steps_done))
