"""The training loop: epochs of steps, a look at the losses every second, a test and a checkpoint after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from regard.data import Batch, Loader, Mixing
from regard.training.averaging import Average
from regard.training.display import Display
from regard.training.evaluate import MANY_CLASSES, evaluate
from regard.training.interrupt import Interrupt
from regard.training.memory import forget_peak, peak_memory
from regard.training.meter import Measured, Meter
from regard.training.optimizers import make_optimizer, reset_momentum
from regard.training.parts import part_sizes
from regard.training.processes import Processes
from regard.training.recipe import Recipe
from regard.training.record import record_epoch
from regard.training.run import Run
from regard.training.sanity import check_measured, check_weights
from regard.training.schedule import learning_rate
from regard.training.seeds import seed_step
from regard.training.state import save_state
from regard.training.step import Step
from regard.training.trackers import Trackers
from regard.transfer import Objective

_LOOK = 1.0  # seconds between two looks at the losses: each waits for the device


class Loop:
    """The state of a run, and what takes it forward. Of several processes each has one, in step with the others."""

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        objective: Objective,
        batches: Loader,
        test_batches: Loader,
        processes: Processes,
        display: Display,
        fewest: int = 2,
    ) -> None:
        self.recipe, self.run, self.objective, self.processes = recipe, run, objective, processes
        self.batches, self.test_batches, self.display = batches, test_batches, display
        self.fewest = fewest  # images at a time
        self.begin: Callable[[], None] | None = None  # once, when the first step is taken
        self.trackers: Trackers | None = None
        self.model = objective.student
        self.average = Average(self.model, recipe.ema)
        self.forward = processes.step_module(Step(objective))
        self.learning = [p for p in self.forward.parameters() if p.requires_grad]
        self.optimizer = processes.optimizer(make_optimizer(self.model, recipe.optimizer, objective.parameters()))
        self.scaler = processes.accelerator.scaler
        self.mixing = _mixing(recipe, len(batches.dataset.classes))
        self.rows: list[dict[str, Any]] = []  # of the finished epochs
        self.epoch = self.step = 0  # the next step to take
        self.unreadable: tuple[str, ...] = ()  # files, and why
        self.skipped: dict[str, None] = {}  # the same, of this process, each once
        self.lost = 0  # steps without a finite gradient, one after another, before this epoch
        self.meter = Meter(len(batches), self.learning[0])
        self.saved_at = time.perf_counter()

    @property
    def steps_done(self) -> int:
        return self.epoch * len(self.batches) + self.step

    @property
    def progress(self) -> float:
        """The share of the run that is over."""
        return self.steps_done / (self.recipe.schedule.epochs * len(self.batches))

    def run_on(self, interrupt: Interrupt) -> bool:
        """Trains to the end, or until interrupted; whether it came to the end."""
        while self.epoch < self.recipe.schedule.epochs:
            if not self.train_epoch(interrupt):
                return False
            self.finish_epoch()
        return True

    def train_epoch(self, interrupt: Interrupt) -> bool:
        """Takes the remaining steps of the epoch; False if interrupted, and saved, before its end."""
        self.model.train()
        forget_peak(self.processes.device)
        self.began, self.waited, self.began_at = time.perf_counter(), 0.0, self.step
        self.looked, self.looked_at, self.next_look = self.began, self.step, self.step + 1
        source = self.batches.epoch(self.epoch, start=self.step)
        while self.step < len(self.batches):
            self.take_step(self.wait_for(source))
            self.step += 1
            last = self.step == len(self.batches)
            if last or self.step == self.next_look or (interrupt and self.processes.count == 1):
                stop = self.look(interrupt)
                if stop and not last:
                    self.save()
                    return False
        return True

    def wait_for(self, source: Iterator[Batch]) -> Batch:
        began = time.perf_counter()
        batch = next(source)
        self.waited += time.perf_counter() - began
        self.skipped.update(dict.fromkeys(batch.skipped))
        return batch

    def take_step(self, batch: Batch) -> None:
        """Forward, backward and a step of the optimizer, on this process's part of a batch."""
        self.prepare_step()
        images, labels = batch.images, batch.labels
        if self.mixing is not None:
            images, labels = self.mixing(images, labels, self.steps_done)
        sizes = part_sizes(len(images), self.recipe.schedule.accumulate, self.fewest)
        parts = list(zip(images.split(sizes), labels.split(sizes), strict=True))
        for number, (some, theirs) in enumerate(parts, start=1):
            # Gradients are averaged over the processes with those of the last part.
            with nullcontext() if number == len(parts) else self.processes.accelerator.no_sync(self.forward):
                losses = self.forward(some, theirs, self.progress)
                # Losses are means over images, and gradients become means over processes.
                share = len(some) * self.processes.count / batch.total
                self.processes.accelerator.backward(losses.total if share == 1 else losses.total * share)
            self.meter.add(self.step, losses, theirs)
        norm = self.clip()
        # With a scaled loss, the optimizer itself leaves out steps whose gradient is not finite.
        if self.scaler is not None or self.recipe.nonfinite == "stop" or norm.isfinite():
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.steps_done)

    def prepare_step(self) -> None:
        schedule = self.recipe.schedule
        seed_step(self.recipe.seed, self.steps_done, self.processes.rank, self.processes.device)
        self.lr = learning_rate(schedule, self.recipe.optimizer.lr, self.steps_done, len(self.batches))
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        if schedule.reset_momentum and self.step == 0 and self.epoch in schedule.milestones:
            reset_momentum(self.optimizer)

    def clip(self) -> Tensor:
        """The norm of the gradient, which is then scaled down to what is allowed."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer.optimizer)
        norm = get_total_norm([p.grad for p in self.learning if p.grad is not None])
        if self.recipe.optimizer.clip is not None:
            clip_grads_with_norm_(self.learning, self.recipe.optimizer.clip, norm)
        self.meter.add_norm(self.step, norm, self.processes.count)
        return norm

    def look(self, interrupt: Interrupt) -> bool:
        """Waits for the device, checks the losses, shows the progress; whether to stop. All processes look at once."""
        measured = self.measured()
        now = time.perf_counter()
        due = now - self.saved_at > 60 * self.recipe.save_minutes
        took = (now - self.looked) / (self.step - self.looked_at)
        stop, pace, save = self.processes.largest(bool(interrupt), took, due)
        check_measured(measured, self.recipe, self.run, self.epoch, len(self.batches), self.lost)
        self.rate = Measured(measured.rows[self.began_at :]).images / (now - self.began)
        if self.begin is not None:
            self.begin()
            self.begin = None
        self.display.step(self.epoch, self.step, measured.means(), self.rate)
        if save and not stop and self.step < len(self.batches):
            self.save()
        self.looked, self.looked_at = now, self.step
        self.next_look = self.step + max(1, int(_LOOK / max(pace, 1e-6)))
        return bool(stop)

    def measured(self) -> Measured:
        """The steps of this epoch, over all processes."""
        return Measured(self.processes.summed(self.meter.rows[: self.step]))

    def finish_epoch(self) -> None:
        """Tests, and writes down the epoch."""
        measured = self.measured()
        took = time.perf_counter() - self.began
        waited, memory = self.processes.largest(self.waited / took, peak_memory(self.processes.device))
        check_weights(self.model, self.run)
        self.processes.share_buffers(self.average.kept)
        score = evaluate(self.average.kept, self.test_batches, summed=self.processes.summed)
        self.skipped.update(dict.fromkeys(score.skipped))
        self.note_unreadable()
        best = max((row["test_accuracy"] for row in self.rows), default=-1.0)
        row = {
            "epoch": self.epoch + 1,
            "lr": self.lr,
            **measured.means(),
            "skipped_steps": len(measured.bad()),
            "test_loss": score.loss,
            "test_accuracy": score.accuracy,
            **({"test_top5": score.top5} if len(self.batches.dataset.classes) > MANY_CLASSES else {}),
            "test_images": score.images,
            "images_per_second": self.rate,
            "waiting": waited,
            "peak_memory": memory,
            "unreadable": len(self.unreadable),
        }
        self.rows.append(row)
        self.lost = measured.lost(self.lost)
        self.epoch, self.step = self.epoch + 1, 0
        self.meter = Meter(len(self.batches), self.learning[0])
        if self.processes.main:
            record_epoch(self.run, self.average.kept, self.rows, self.unreadable, best=score.accuracy > best)
        self.save()
        self.display.epoch(row, self.unreadable)
        if self.trackers is not None:
            self.trackers.log(row, self.steps_done)

    def note_unreadable(self) -> None:
        """Adds the files that any process could not read to those of before."""
        new = (*self.unreadable, *self.skipped)
        self.unreadable = self.processes.all_names(tuple(dict.fromkeys(new)))

    def save(self) -> None:
        """Saves a checkpoint of all that the rest of the run depends on."""
        check_weights(self.model, self.run)
        self.note_unreadable()
        rows = self.processes.summed(self.meter.rows)
        if self.processes.main:
            save_state(self, rows)
        self.saved_at = time.perf_counter()


def _mixing(recipe: Recipe, classes: int) -> Mixing | None:
    augmentation = recipe.augmentation
    if not augmentation.mixes:
        return None
    return Mixing(augmentation, classes, recipe.seed, recipe.label_smoothing)
