"""What a run says while it goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from regard.console import Console
from regard.terminal import escaped
from regard.training.meter import TERMS


class Display:
    """Told of the progress of a run; says nothing of it. Subclasses do."""

    def start(self, run: str, epochs: int, steps: int, done: int) -> None: ...
    def step(self, epoch: int, step: int, means: dict[str, float], images_per_second: float) -> None: ...
    def epoch(self, row: dict[str, Any], unreadable: Sequence[str] = ()) -> None: ...
    def say(self, message: str) -> None: ...
    def stop(self) -> None: ...


class Lines(Display):
    """A line an epoch; on a terminal, a bar below them that moves with the steps."""

    def __init__(self, console: rich.console.Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True)
        self.progress: Progress | None = None
        self.task = TaskID(0)
        self.epochs = self.steps = 0
        self.began = time.monotonic()
        self.done = 0
        self.unreadable: set[str] = set()  # that were said

    def start(self, run: str, epochs: int, steps: int, done: int) -> None:
        self.epochs, self.steps, self.done = epochs, steps, done
        self.began = time.monotonic()
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self.progress = Progress(*columns, console=self.console, transient=True)
            self.task = self.progress.add_task(escaped(run), total=epochs * steps, completed=done, note="")
            self.progress.start()

    def step(self, epoch: int, step: int, means: dict[str, float], images_per_second: float) -> None:
        if self.progress is None:
            return
        done = epoch * self.steps + step
        note = (
            f"loss {means.get('loss', 0):.3f}  train {means.get('accuracy', 0):.1%}  {images_per_second:,.0f} images/s"
        )
        self.progress.update(self.task, completed=done, note=f"{note}  {self._left(done)} left")

    def epoch(self, row: dict[str, Any], unreadable: Sequence[str] = ()) -> None:
        terms = "".join(f"  {name} {row[name]:.3g}" for name in TERMS if row.get(name))
        learned = ""  # nothing, if every step was left out
        if "loss" in row:
            learned = (
                f"loss {row['loss']:.4f}{terms}  train {row['accuracy']:.2%}  gradient {row['gradient_norm']:.3g}  "
            )
        done = row["epoch"] * self.steps
        left = f"  {self._left(done)} left" if row["epoch"] < self.epochs else ""
        self.console.print(
            f"epoch {row['epoch']}/{self.epochs}  {learned}test {row['test_accuracy']:.2%}  lr {row['lr']:.3g}  "
            f"{row['images_per_second']:,.0f} images/s, {row['waiting']:.0%} waiting  "
            f"{row['peak_memory']:.2g} GiB{left}"
        )
        if row["skipped_steps"]:
            self.say(f"{row['skipped_steps']} steps of it were left out: their gradients were infinite or no numbers")
        new = [name for name in unreadable if name not in self.unreadable]
        if new:
            self.unreadable.update(new)
            more = f" and {len(new) - 3} more" if len(new) > 3 else ""
            self.say(f"{len(new)} images could not be read: {'; '.join(new[:3])}{more} (all in unreadable.txt)")

    def say(self, message: str) -> None:
        self.console.print(Text(escaped(message)))

    def stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def _left(self, done: int) -> str:
        rate = (time.monotonic() - self.began) / max(done - self.done, 1)
        seconds = round(rate * (self.epochs * self.steps - done))
        minutes, seconds = divmod(seconds, 60)
        return f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}m{seconds:02}s"
