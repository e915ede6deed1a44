"""The training loop: steps, a check of the losses every second, and a test and a checkpoint after every epoch."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate, chain, pairwise
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from regard.data import Batch
from regard.training.checkpoint import save_checkpoint
from regard.training.distributed import Processes
from regard.training.hooks import Hook
from regard.training.meter import EpochLosses, Meter, check_losses, check_weights, peak_memory, reset_peak_memory
from regard.training.optimizers import learning_rate, make_optimizer, reset_momentum
from regard.training.recipe import Recipe
from regard.training.run import Run
from regard.training.task import Task

_CHECK_SECONDS = 1.0  # between two checks of the losses; each check waits for the device


class Loop:
    """The state of a run and its training steps. With several processes, each has a loop at the same step.

    Attributes:
        model: network in training.
        tested: network that is tested and saved; the same as `model` unless a hook replaces it.
        epoch, step: epoch and step to run next, from 0.
        rows: rows of metrics.jsonl, one per finished epoch.
        unreadable: files that could not be read, each with the reason.
        begin: function to call after the first step.
    """

    def __init__(self, recipe: Recipe, run: Run, task: Task, processes: Processes, hooks: Sequence[Hook] = ()) -> None:
        self.recipe, self.run, self.task, self.processes = recipe, run, task, processes
        self.loader, self.hooks = task.loader, hooks
        self.begin: Callable[[], None] | None = None
        self.run_id = ""
        self.model = self.tested = task.student
        for hook in hooks:
            hook.setup(self)
        self.forward = processes.accelerator.prepare_model(task.objective)
        self.parameters = [p for p in self.forward.parameters() if p.requires_grad]
        optimizer = make_optimizer(self.model, recipe.optimizer, task.regressors.parameters())
        self.optimizer = processes.accelerator.prepare_optimizer(optimizer)
        self.scaler = processes.accelerator.scaler
        self.meter = Meter(len(self.loader), self.parameters[0], task.measures)
        self.rows: list[dict[str, Any]] = []
        self.epoch = self.step = 0
        self.unreadable: tuple[str, ...] = ()
        self.skipped: dict[str, None] = {}  # images that this process could not read, an ordered set
        self.nonfinite_before = 0  # consecutive steps without a finite gradient at the end of the previous epoch
        self.saved_at = time.perf_counter()

    def run_epochs(self, interrupted: Callable[[], bool]) -> bool:
        """Runs the remaining epochs or stops at an interruption; returns whether the run is finished."""
        while self.epoch < self.recipe.schedule.epochs:
            if not self.train_epoch(interrupted):
                return False
            self.finish_epoch()
        return True

    def train_epoch(self, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Runs the remaining steps of the epoch; returns False if it was interrupted and saved before its end."""
        self.model.train()
        reset_peak_memory(self.processes.device)
        self.start_time, self.waiting_time, self.first_step = time.perf_counter(), 0.0, self.step
        self.checked_time, self.checked_step, self.next_check = self.start_time, self.step, self.step + 1
        batches = self.loader.epoch(self.epoch, start=self.step)
        while self.step < len(self.loader):
            wait_start = time.perf_counter()
            batch = next(batches)
            self.waiting_time += time.perf_counter() - wait_start
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
        """Runs forward, backward and a step of the optimizer on this rank's slice of a batch."""
        self.skipped.update(dict.fromkeys(batch.skipped))
        self.prepare_step()
        for hook in self.hooks:
            batch = hook.before_step(self, batch)
        batches = micro_batches(batch, self.recipe.schedule.accumulate, self.task.fewest)
        for number, micro_batch in enumerate(batches, start=1):
            images = len(micro_batch.images)
            # DistributedDataParallel averages gradients over the processes at the last micro-batch.
            with nullcontext() if number == len(batches) else self.processes.accelerator.no_sync(self.forward):
                losses = self.forward(*self.task.inputs(micro_batch, self.steps_done, self.progress))
                # Losses are means over images; gradients are averaged over processes.
                weight = images * self.processes.count / batch.total
                self.processes.accelerator.backward(losses.total if weight == 1 else losses.total * weight)
            self.meter.add(self.step, losses, images, self.task.measured(losses, micro_batch))
        norm = self.clip()
        # With a scaled loss, the scaler skips steps whose gradient is not finite.
        if self.scaler is not None or self.recipe.nonfinite == "stop" or norm.isfinite():
            self.optimizer.step()
        self.optimizer.zero_grad()

    def prepare_step(self) -> None:
        """Seeds the random numbers of the step and sets its learning rate."""
        schedule = self.recipe.schedule
        self.processes.seed_step(self.recipe.seed, self.steps_done)
        self.lr = learning_rate(schedule, self.recipe.optimizer.lr, self.steps_done, len(self.loader))
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        if schedule.reset_momentum and self.step == 0 and self.epoch in schedule.milestones:
            reset_momentum(self.optimizer)

    def clip(self) -> Tensor:
        """Clips the gradient and returns its norm before clipping."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer.optimizer)
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.recipe.optimizer.clip is not None:
            clip_grads_with_norm_(self.parameters, self.recipe.optimizer.clip, norm)
        # All processes have the same norm, and their columns are summed.
        self.meter.rows[self.step, 0] = norm.detach() / self.processes.count
        return norm

    def check(self, interrupted: bool) -> bool:
        """Reads the losses, which waits for the device; returns whether to stop. Processes check at the same step."""
        losses = self.epoch_losses()
        now = time.perf_counter()
        checkpoint_due = now - self.saved_at > 60 * self.recipe.save_minutes
        seconds_per_step = (now - self.checked_time) / (self.step - self.checked_step)
        stop, slowest, save = self.processes.largest(interrupted, seconds_per_step, checkpoint_due)
        check_losses(self, losses)
        if self.begin is not None:
            self.begin()
            self.begin = None
        self.images_per_second = int(losses.columns["images"][self.first_step :].sum()) / (now - self.start_time)
        for hook in self.hooks:
            hook.after_check(self, losses.means())
        if save and not stop and self.step < len(self.loader):
            self.save()
        self.checked_time, self.checked_step = now, self.step
        self.next_check = self.step + max(1, int(_CHECK_SECONDS / max(slowest, 1e-6)))
        return bool(stop)

    def finish_epoch(self) -> None:
        """Tests the network and records the epoch."""
        losses = self.epoch_losses()
        waiting = self.waiting_time / (time.perf_counter() - self.start_time)
        waiting, memory = self.processes.largest(waiting, peak_memory(self.processes.device))
        check_weights(self)
        self.processes.share_buffers(self.tested)
        test_results, skipped = self.task.test(self.tested, self.processes)
        self.skipped.update(dict.fromkeys(skipped))
        self.collect_unreadable()
        row = {
            "epoch": self.epoch + 1,
            "lr": self.lr,
            **losses.means(),
            "skipped_steps": len(losses.nonfinite()),
            **test_results,
            "images_per_second": self.images_per_second,
            "waiting": waiting,
            "peak_memory": memory,
            "unreadable": len(self.unreadable),
        }
        self.rows.append(row)
        self.nonfinite_before = losses.nonfinite_at_end(self.nonfinite_before)
        self.epoch, self.step = self.epoch + 1, 0
        self.meter.rows.zero_()
        if self.processes.main:
            self.run.record_epoch(self.tested, self.rows, self.unreadable)
        for hook in self.hooks:
            hook.after_epoch(self, row)
        self.save()

    def save(self) -> None:
        """Saves a checkpoint."""
        check_weights(self)
        self.collect_unreadable()
        rows = self.processes.summed(self.meter.rows)
        if self.processes.main:
            save_checkpoint(self, dict(zip(self.meter.columns, rows.unbind(1), strict=True)))
            for hook in self.hooks:
                hook.after_checkpoint(self)
        self.saved_at = time.perf_counter()

    def epoch_losses(self) -> EpochLosses:
        """The losses of this epoch, summed over all processes."""
        return EpochLosses(self.meter.columns, self.processes.summed(self.meter.rows[: self.step]))

    def collect_unreadable(self) -> None:
        """Adds the files that any process could not read to `unreadable`."""
        names = self.processes.of_all((*self.unreadable, *self.skipped))
        self.unreadable = tuple(dict.fromkeys(chain.from_iterable(names)))

    @property
    def steps_done(self) -> int:
        return self.epoch * len(self.loader) + self.step

    @property
    def progress(self) -> float:
        """Completed fraction of the run, in [0, 1]."""
        return self.steps_done / (self.recipe.schedule.epochs * len(self.loader))


def micro_batches(batch: Batch, count: int, fewest: int) -> list[Batch]:
    """Splits a rank's slice of a batch into `count` micro-batches, as equal as possible, of at least `fewest` images.

    `total` stays the total of the batch.
    """
    images = len(batch.images)
    count = max(1, min(count, images // fewest))
    ends = list(accumulate((images + i) // count for i in reversed(range(count))))
    per_image: dict[str, Any] = {
        name: value for name, value in batch._asdict().items() if isinstance(value, Tensor | list)
    }
    return [
        batch._replace(**{name: value[start:end] for name, value in per_image.items()})
        for start, end in pairwise((0, *ends))
    ]


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """A context that records Ctrl-C and SIGTERM instead of ending the process; a second Ctrl-C ends it.

    Yields a function that returns whether a signal was received. Outside the main thread, where Python handles no
    signals, it has no effect.
    """
    interrupted = False

    def record(number: int, _: object) -> None:
        nonlocal interrupted
        if interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        interrupted = True

    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: signal.signal(number, record) for number in signals}
    try:
        yield lambda: interrupted
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
