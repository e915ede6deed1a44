"""What a run says while it goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import rich.console
import rich.progress
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.text import Text

from regard.console import Console
from regard.terminal import escaped
from regard.training.hooks import Hook

if TYPE_CHECKING:
    from regard.training.loop import Loop


class Progress(Hook):
    """Prints one line per epoch; on a terminal, a bar below them moves with the steps."""

    main_only = True

    def __init__(self, console: rich.console.Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True)
        self.bar: rich.progress.Progress | None = None
        self.task = TaskID(0)
        self.total = 0
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
            self.task = self.bar.add_task(escaped(loop.run.name), total=self.total, note="")
            self.bar.start()

    def after_check(self, loop: Loop, means: dict[str, float]) -> None:
        if self.first < 0:  # losses are read after the first step
            self.first = loop.steps_done - 1
        if self.bar is not None:
            note = (
                f"loss {means.get('loss', 0):.3f}  train {means.get('accuracy', 0):.1%}  "
                f"{loop.images_per_second:,.0f} images/s  {self._left(loop)} left"
            )
            self.bar.update(self.task, completed=loop.steps_done, note=note)

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
            self.note(f"{len(new)} images could not be read: {'; '.join(new[:3])}{more} (all in unreadable.txt)")

    def note(self, message: str) -> None:
        self.console.print(Text(escaped(message)))

    def finish(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _left(self, loop: Loop) -> str:
        rate = (time.monotonic() - self.began) / max(loop.steps_done - self.first, 1)
        minutes, seconds = divmod(round(rate * (self.total - loop.steps_done)), 60)
        return f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}m{seconds:02}s"
