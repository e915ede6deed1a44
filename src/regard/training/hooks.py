"""What takes part in a run beside the loop itself: a hook for each trick, tracker and display."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.console
import rich.progress
from accelerate import utils
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.text import Text
from timm.utils import ModelEmaV3

from regard.console import Console
from regard.data import Batch, Mixing
from regard.errors import InputError, one_line
from regard.formatting import duration, printable
from regard.training.recipe import flat, plain

if TYPE_CHECKING:
    from regard.training.loop import Loop


class Hook:
    """Called at the turns of a run; what a hook does not override does nothing.

    Attributes:
        main_only: whether of several processes only the main one has it. Others have it each, in step.
    """

    main_only = False

    def setup(self, loop: Loop) -> None:
        """When the loop is made, before it goes on from a checkpoint."""

    def start(self, loop: Loop) -> None:
        """In the main process, after the first step, right before the run folder is made: an InputError leaves none."""

    def before_step(self, loop: Loop, batch: Batch) -> Batch:
        """Gives the batch of the step, this one or another."""
        return batch

    def after_step(self, loop: Loop) -> None:
        """After the optimizer's step; `loop.steps_done` counts it."""

    def after_check(self, loop: Loop, means: dict[str, float]) -> None:
        """About once per second, when the losses were read.

        Args:
            loop: with `images_per_second`.
            means: over the epoch so far: `loss`, its terms, `accuracy`, `gradient_norm`.
        """

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        """After the test, before the checkpoint; `row` is the epoch's line of metrics.jsonl, and written there."""

    def after_checkpoint(self, loop: Loop) -> None:
        """In the main process, after a checkpoint was saved, at the end of an epoch or within one."""

    def note(self, message: str) -> None:
        """Told what a person should know, in one line."""

    def finish(self) -> None:
        """At the end, whatever it is."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""


def by_name(hooks: Sequence[Hook]) -> dict[str, Hook]:
    """Hooks by the names of their classes; the second of a class has a 2 after it, and so on."""
    names = [type(hook).__name__ for hook in hooks]
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return {
        name if count == 1 else f"{name} {count}": hook for name, count, hook in zip(names, counts, hooks, strict=True)
    }


class WeightAverage(Hook):
    """The moving average of weights and buffers, by timm, which is tested and saved in place of the network.

    The decay per step grows to `decay`, in (0, 1), over the first steps, as `1 - (1 + step) ^ (-2 / 3)`, so that a
    short run is not held back by where it began.
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


class Upload(Hook):
    """Brings the run folder elsewhere after every checkpoint: `upload` takes it."""

    main_only = True

    def __init__(self, upload: Callable[[Path], object]) -> None:
        self.upload = upload

    def after_checkpoint(self, loop: Loop) -> None:
        self.upload(loop.run.folder)


class Trackers(Hook):
    """Where metrics go besides the run folder, by accelerate: tensorboard, wandb, mlflow. What they write lies in the
    run folder, unless they send it elsewhere.
    """

    main_only = True

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._trackers: list[GeneralTracker] = []

    def start(self, loop: Loop) -> None:
        self._note = loop.processes.note
        folder, scalar = loop.run.folder.resolve(), (int, float, str, bool)
        recipe = flat(plain(loop.recipe)).items()
        fields = {name: value if isinstance(value, scalar) else json.dumps(value) for name, value in recipe}
        for name in self.names:
            kind = LOGGER_TYPE_TO_CLASS[name]
            options: dict[str, Any] = {"logging_dir": str(folder)} if kind.requires_logging_directory else {}
            if name == "wandb":  # the same run there when it is resumed here
                options.update(name=folder.name, id=loop.run_id, resume="allow", dir=str(folder))
            if name == "mlflow":
                options["run_name"] = folder.name
            try:
                tracker = kind("regard" if name != "tensorboard" else "tensorboard", **options)
                tracker.start()
                tracker.store_init_configuration(fields)
            except Exception as error:  # the network, accounts and files of others give almost any
                raise InputError(f"tracker {name} cannot start ({one_line(error)[:200]})") from error
            self._trackers.append(tracker)

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        self._each(lambda tracker: tracker.log(row, step=loop.steps_done))

    def finish(self) -> None:
        self._each(lambda tracker: tracker.finish())

    def _each(self, call: Callable[[GeneralTracker], object]) -> None:
        for tracker in self._trackers:
            try:
                call(tracker)
            except Exception as error:  # as above; the same metrics are in the run folder
                self._note(f"tracker {tracker.name} failed ({one_line(error)[:200]}); the run goes on")


def check_trackers(names: Sequence[str]) -> None:
    """Raises InputError for a tracker whose package is not installed."""
    for name in names:
        if not getattr(utils, f"is_{name}_available")():
            raise InputError(f"trackers has {name}, which is not installed (pip install {name})")


class Progress(Hook):
    """Prints one line per epoch; on a terminal, a bar below them moves with the steps."""

    main_only = True

    def __init__(self, console: rich.console.Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True)
        self.bar: rich.progress.Progress | None = None
        self.began, self.first = time.monotonic(), -1  # when, and before which step
        self.unreadable: set[str] = set()  # that were noted

    def setup(self, loop: Loop) -> None:
        self.began, self.total = time.monotonic(), loop.recipe.schedule.epochs * len(loop.loader)
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
        if self.first < 0:  # losses are read after the first step
            self.first = loop.steps_done - 1
        if self.bar is not None:
            note = (
                f"loss {means.get('loss', 0):.3f}  train {means.get('accuracy', 0):.1%}  "
                f"{loop.images_per_second:,.0f} images/s  {self._left(loop)} left"
            )
            self.bar.update(self.bar.task_ids[0], completed=loop.steps_done, note=note)

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        learned = ""  # nothing, if every step was left out
        if "loss" in row:
            terms = "".join(f"  {name} {row[name]:.3g}" for name in loop.meter.terms if row[name] and name != "task")
            learned = (
                f"loss {row['loss']:.4f}{terms}  train {row['accuracy']:.2%}  gradient {row['gradient_norm']:.3g}  "
            )
        left = f"  {self._left(loop)} left" if loop.steps_done < self.total else ""
        self.console.print(
            f"epoch {row['epoch']}/{loop.recipe.schedule.epochs}  {learned}test {row['test_accuracy']:.2%}  "
            f"lr {row['lr']:.3g}  {row['images_per_second']:,.0f} images/s, {row['waiting']:.0%} waiting  "
            f"{row['peak_memory']:.2g} GiB{left}"
        )
        if row["skipped_steps"]:
            self.note(f"{row['skipped_steps']} steps of it were left out: their gradients were infinite or NaN")
        new = [name for name in loop.unreadable if name not in self.unreadable]
        if new:
            self.unreadable.update(new)
            more = f" and {len(new) - 3} more" if len(new) > 3 else ""
            self.note(f"{len(new)} could not be read: {'; '.join(new[:3])}{more} (all in unreadable.txt)")

    def note(self, message: str) -> None:
        self.console.print(Text(printable(message)))

    def finish(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _left(self, loop: Loop) -> str:
        rate = (time.monotonic() - self.began) / max(loop.steps_done - self.first, 1)
        return duration(rate * (self.total - loop.steps_done))
