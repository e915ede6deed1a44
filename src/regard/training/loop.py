"""The training loop: epochs of steps, the losses checked every second, a test and a checkpoint after every epoch."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from regard.data import Batch, Loader
from regard.training.checkpoint import save_checkpoint
from regard.training.distributed import Processes
from regard.training.evaluate import MANY_CLASSES, evaluate
from regard.training.hooks import Hook
from regard.training.meter import Measured, Meter, check_losses, check_weights, peak_memory, reset_peak_memory
from regard.training.optimizers import learning_rate, make_optimizer, reset_momentum
from regard.training.recipe import Recipe
from regard.training.run import Run
from regard.transfer import Objective

_CHECK = 1.0  # seconds between two checks of the losses: each waits for the device


class Loop:
    """The state of a run, and what takes it forward. Of several processes each has one, in step with the others.

    Attributes:
        model: the network that learns.
        tested: the network that is tested and saved; the same, unless a hook replaces it.
        epoch, step: the next step to take, from 0.
        rows: of metrics.jsonl, one per finished epoch.
        unreadable: files that could not be read, and why.
        begin: called after the first step.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        objective: Objective,
        loader: Loader,
        test_loader: Loader,
        processes: Processes,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.recipe, self.run, self.objective, self.processes = recipe, run, objective, processes
        self.loader, self.test_loader, self.hooks = loader, test_loader, hooks
        self.begin: Callable[[], None] | None = None
        self.run_id = ""
        self.model = self.tested = objective.student
        for hook in hooks:
            hook.setup(self)
        self.forward = processes.accelerator.prepare_model(objective)
        self.learning = [p for p in self.forward.parameters() if p.requires_grad]
        optimizer = make_optimizer(self.model, recipe.optimizer, objective.regressors.parameters())
        self.optimizer = processes.accelerator.prepare_optimizer(optimizer)
        self.scaler = processes.accelerator.scaler
        self.meter = Meter(len(loader), self.learning[0])
        self.rows: list[dict[str, Any]] = []
        self.epoch = self.step = 0
        self.unreadable: tuple[str, ...] = ()
        self.skipped: dict[str, None] = {}  # by this process, each once
        self.bad_before = 0  # steps without a finite gradient, one after another, right before this epoch
        self.saved_at = time.perf_counter()

    def run_on(self, interrupted: Callable[[], bool]) -> bool:
        """Trains to the end, or until interrupted; whether it came to the end."""
        while self.epoch < self.recipe.schedule.epochs:
            if not self.train_epoch(interrupted):
                return False
            self.finish_epoch()
        return True

    def train_epoch(self, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Takes the remaining steps of the epoch; False if interrupted, and saved, before its end."""
        self.model.train()
        reset_peak_memory(self.processes.device)
        self.began, self.waited, self.first = time.perf_counter(), 0.0, self.step
        self.checked_at, self.checked, self.next_check = self.began, self.step, self.step + 1
        batches = self.loader.epoch(self.epoch, start=self.step)
        while self.step < len(self.loader):
            before = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - before
            self.take_step(batch)
            self.step += 1
            for hook in self.hooks:
                hook.after_step(self)
            last = self.step == len(self.loader)
            if last or self.step == self.next_check or (self.processes.count == 1 and interrupted()):
                stop = self.check(interrupted())
                if stop and not last:
                    self.save()
                    return False
        return True

    def take_step(self, batch: Batch) -> None:
        """Forward, backward and a step of the optimizer, on this process's slice of a batch."""
        self.skipped.update(dict.fromkeys(batch.skipped))
        self.prepare_step()
        for hook in self.hooks:
            batch = hook.before_step(self, batch)
        sizes = part_sizes(len(batch.images), self.recipe.schedule.accumulate)
        parts = list(zip(batch.images.split(sizes), batch.labels.split(sizes), strict=True))
        for number, (images, labels) in enumerate(parts, start=1):
            # Gradients are averaged over the processes with those of the last part.
            with nullcontext() if number == len(parts) else self.processes.accelerator.no_sync(self.forward):
                losses = self.forward(images, labels, self.progress)
                # Losses are means over images, and gradients become means over processes.
                share = len(images) * self.processes.count / batch.total
                self.processes.accelerator.backward(losses.total if share == 1 else losses.total * share)
            self.meter.add(self.step, losses, labels)
        norm = self.clip()
        # With a scaled loss, the optimizer itself leaves out steps whose gradient is not finite.
        if self.scaler is not None or self.recipe.nonfinite == "stop" or norm.isfinite():
            self.optimizer.step()
        self.optimizer.zero_grad()

    def prepare_step(self) -> None:
        """Seeds what is random in the step, and sets its learning rate."""
        schedule = self.recipe.schedule
        self.processes.seed_step(self.recipe.seed, self.steps_done)
        self.lr = learning_rate(schedule, self.recipe.optimizer.lr, self.steps_done, len(self.loader))
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
        self.meter.rows[self.step, 0] = norm.detach() / self.processes.count  # all have it, and it is summed
        return norm

    def check(self, interrupted: bool) -> bool:
        """Waits for the device and reads the losses; whether to stop. All processes do so after the same step."""
        measured = self.measured()
        now = time.perf_counter()
        due = now - self.saved_at > 60 * self.recipe.save_minutes
        step_took = (now - self.checked_at) / (self.step - self.checked)
        stop, slowest, save = self.processes.largest(interrupted, step_took, due)
        check_losses(self, measured)
        if self.begin is not None:
            self.begin()
            self.begin = None
        self.images_per_second = int(measured.columns["images"][self.first :].sum()) / (now - self.began)
        for hook in self.hooks:
            hook.after_check(self, measured.means())
        if save and not stop and self.step < len(self.loader):
            self.save()
        self.checked_at, self.checked = now, self.step
        self.next_check = self.step + max(1, int(_CHECK / max(slowest, 1e-6)))
        return bool(stop)

    def finish_epoch(self) -> None:
        """Tests, and writes down the epoch."""
        measured = self.measured()
        waiting = self.waited / (time.perf_counter() - self.began)
        waiting, memory = self.processes.largest(waiting, peak_memory(self.processes.device))
        check_weights(self)
        self.processes.share_buffers(self.tested)
        score = evaluate(self.tested, self.test_loader, summed=self.processes.summed)
        self.skipped.update(dict.fromkeys(score.skipped))
        self.collect_unreadable()
        row = {
            "epoch": self.epoch + 1,
            "lr": self.lr,
            **measured.means(),
            "skipped_steps": len(measured.bad()),
            "test_loss": score.loss,
            "test_accuracy": score.accuracy,
            **({"test_top5": score.top5 / score.images} if len(self.loader.dataset.classes) > MANY_CLASSES else {}),
            "test_images": score.images,
            "images_per_second": self.images_per_second,
            "waiting": waiting,
            "peak_memory": memory,
            "unreadable": len(self.unreadable),
        }
        self.rows.append(row)
        self.bad_before = measured.bad_at_the_end(self.bad_before)
        self.epoch, self.step = self.epoch + 1, 0
        self.meter.rows.zero_()
        if self.processes.main:
            self.run.record_epoch(self.tested, self.rows, self.unreadable)
        for hook in self.hooks:
            hook.after_epoch(self, row)
        self.save()

    def save(self) -> None:
        """Saves a checkpoint of all that the rest of the run depends on."""
        check_weights(self)
        self.collect_unreadable()
        rows = self.processes.summed(self.meter.rows)
        if self.processes.main:
            save_checkpoint(self, dict(zip(self.meter.columns, rows.unbind(1), strict=True)))
            for hook in self.hooks:
                hook.after_checkpoint(self)
        self.saved_at = time.perf_counter()

    def measured(self) -> Measured:
        """The steps of this epoch, over all processes."""
        return Measured(self.meter.columns, self.processes.summed(self.meter.rows[: self.step]))

    def collect_unreadable(self) -> None:
        """Adds the files that any process could not read to those of before."""
        of_all = self.processes.of_all((*self.unreadable, *self.skipped))
        self.unreadable = tuple(dict.fromkeys(chain.from_iterable(of_all)))

    @property
    def steps_done(self) -> int:
        return self.epoch * len(self.loader) + self.step

    @property
    def progress(self) -> float:
        """The share of the run that is over."""
        return self.steps_done / (self.recipe.schedule.epochs * len(self.loader))


def part_sizes(images: int, parts: int) -> list[int]:
    """The sizes of so many parts of a process's images, as equal as can be, of two images at least."""
    parts = max(1, min(parts, images // 2))
    return [(images + part) // parts for part in reversed(range(parts))]


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Gives whether Ctrl-C or SIGTERM came, which within it are noted instead of obeyed; a second Ctrl-C is obeyed.

    Outside the main thread, where Python takes no signals, nothing is changed.
    """
    asked = False

    def note(number: int, _: object) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
