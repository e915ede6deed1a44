"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regard import data, models
from regard.errors import InputError
from regard.training.checkpoints import load_checkpoint, save_checkpoint
from regard.training.display import Display
from regard.training.evaluate import evaluate
from regard.training.interrupt import Interrupt, interruptible
from regard.training.meter import Meter
from regard.training.recipe import Recipe, plain
from regard.training.run import Run, load_data, make_model, pick_device, resolved
from regard.training.schedule import learning_rate, make_optimizer
from regard.training.teacher import load_teachers
from regard.transfer import Objective

# What says where a run takes place, and may be another when it is resumed.
_WHERE = ("source", "device", "threads", "data.folder", "data.download")
_LOOK = 1.0  # seconds between two looks at the losses: each waits for the device


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

    Args:
        recipe: what to do.
        folder: of the run; made.
        resume: go on with the run in `folder`, if there is one, from its newest checkpoint.
        overwrite: remove a run that is in `folder` already.
        display: told of the progress.
        splits: the data, if they are loaded already; they have to be those of the recipe.

    Raises:
        InputError: something in the recipe, the data, the teacher or the folder is not right (nothing was changed
            then), or the loss is no number (the last good checkpoint is kept).
    """
    display = display or Display()
    recipe.check()
    for teacher in recipe.transfer.teachers:
        if Path(teacher).resolve() == Path(folder).resolve():
            raise InputError(f"the run {folder} cannot be its own teacher; name another (transfer.teacher, or --run)")
    if not resume:
        Run.check_free(folder, overwrite=overwrite)  # before the data are read
    device = pick_device(recipe.device)
    train_set, test_set = splits or load_data(recipe.data)
    for images in (train_set, test_set):
        if images.skipped:
            names = ", ".join(images.skipped[:3]) + (", …" if len(images.skipped) > 3 else "")
            display.say(f"{len(images.skipped)} unreadable {images.split} images skipped: {names}")
    recipe = replace(recipe, data=resolved(recipe.data, train_set))
    with _settings(recipe):
        torch.manual_seed(recipe.seed)
        model = _placed(make_model(recipe, len(train_set.classes)), device)
        batches = data.Batches(
            train_set,
            recipe.schedule.batch_size,
            augmentation=recipe.augmentation,
            shuffle=True,
            seed=recipe.seed,
            device=device,
            channels_last=True,
        )
        test_batches = data.Batches(test_set, _test_batch(test_set), device=device, channels_last=True)
        objective = _objective(recipe, model, train_set, batches.image_size, display.say)
        run = _open_or_create(recipe, Path(folder), train_set.classes, resume, overwrite)
        loop = _Loop(recipe, run, model, objective, batches, test_batches, display)
        if resume:
            loop.restore(load_checkpoint(run.checkpoints, display.say))
        display.start(run.name, recipe.schedule.epochs, len(batches), loop.steps_done)
        try:
            with interruptible() as interrupt:
                finished = loop.run_on(interrupt)
        finally:
            display.stop()
    accuracy = loop.rows[-1]["test_accuracy"] if loop.rows else None
    return Outcome(run, finished, accuracy)


class _Loop:
    """The state of a run, and what takes it forward."""

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        model: nn.Module,
        objective: Objective,
        batches: data.Batches,
        test_batches: data.Batches,
        display: Display,
    ) -> None:
        self.recipe, self.run, self.model, self.objective = recipe, run, model, objective
        self.batches, self.test_batches, self.display = batches, test_batches, display
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, recipe.optimizer, objective.parameters())
        self.rows: list[dict[str, Any]] = []  # of the finished epochs
        self.epoch = self.step = 0  # the next step to take
        self.meter = Meter(len(batches), self.device)

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
                self.save()
                return False
            self.finish_epoch()
        return True

    def train_epoch(self, interrupt: Interrupt) -> bool:
        """Takes the remaining steps of the epoch; False if interrupted before its end."""
        self.model.train()
        self.began, self.began_at = time.perf_counter(), self.step
        looked = self.began
        for batch in self.batches.epoch(self.epoch, start=self.step):
            self.prepare_step()
            losses = self.objective(batch.images, batch.labels, self.progress)
            self.optimizer.zero_grad(set_to_none=True)
            losses.total.backward()
            self.optimizer.step()
            self.meter.add(self.step, losses, batch.labels)
            self.step += 1
            last = self.step == len(self.batches)
            if last or interrupt or time.perf_counter() - looked > _LOOK:
                self.look()
                looked = time.perf_counter()
            if interrupt and not last:
                return False
        return True

    def look(self) -> None:
        """Waits for the device, checks the losses and shows the progress."""
        bad = self.meter.first_bad(self.step)
        if bad is not None:
            steps = len(self.batches)
            lr = learning_rate(self.recipe.schedule, self.recipe.optimizer.lr, self.epoch * steps + bad, steps)
            raise InputError(
                f"the loss is no number in epoch {self.epoch + 1}, step {bad + 1}, at learning rate {lr:.3g}; the last "
                f"good checkpoint is kept in {self.run.checkpoints} (try a lower learning rate, or a warm-up)"
            )
        batch_size = self.batches.batch_size
        seen = min(self.step * batch_size, len(self.batches.images)) - self.began_at * batch_size
        self.rate = seen / (time.perf_counter() - self.began)
        self.display.step(self.epoch, self.step, self.meter.means(self.step), self.rate)

    def prepare_step(self) -> None:
        schedule = self.recipe.schedule
        self.lr = learning_rate(schedule, self.recipe.optimizer.lr, self.steps_done, len(self.batches))
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        if schedule.reset_momentum and self.step == 0 and self.epoch in schedule.milestones:
            for state in self.optimizer.state.values():
                state["momentum_buffer"].zero_()

    def finish_epoch(self) -> None:
        score = evaluate(self.model, self.test_batches)
        best = max((row["test_accuracy"] for row in self.rows), default=-1.0)
        means = self.meter.means(self.step)
        self.rows.append(
            {
                "epoch": self.epoch + 1,
                "lr": self.lr,
                **means,
                "test_loss": score.loss,
                "test_accuracy": score.accuracy,
                "test_images": score.images,
                "images_per_second": self.rate,
            }
        )
        self.epoch, self.step = self.epoch + 1, 0
        self.meter = Meter(len(self.batches), self.device)
        self.run.save_weights(self.model, "last", self.epoch, score.accuracy)
        if score.accuracy > best:
            self.run.save_weights(self.model, "best", self.epoch, score.accuracy)
        self.run.write_metrics(self.rows)
        self.save()
        self.display.epoch(self.rows[-1])

    def save(self) -> None:
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "model": self.model.state_dict(),
            "regressors": self.objective.regressors.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rows": self.rows,
            "meter": self.meter.rows,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        save_checkpoint(self.run.checkpoints, self.steps_done, state)

    def restore(self, state: dict[str, Any] | None) -> None:
        """Goes on from a checkpoint; from the start if there is none."""
        if state is None:
            return
        missing = {"epoch", "step", "model", "optimizer", "rows", "meter", "random", "random_cuda"} - state.keys()
        if missing:
            raise InputError(f"the newest checkpoint in {self.run.checkpoints} lacks {', '.join(sorted(missing))}")
        if state["meter"].shape != self.meter.rows.shape:
            raise InputError(
                f"the newest checkpoint in {self.run.checkpoints} is of another version of regard; start the run again "
                "(--overwrite)"
            )
        models.load_weights(self.model, state["model"], f"the checkpoint in {self.run.checkpoints}")
        self.objective.regressors.load_state_dict(state.get("regressors", {}))
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step, self.rows = state["epoch"], state["step"], state["rows"]
        self.meter.rows = state["meter"].to(self.device)
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.display.say(f"resumed {self.run.folder} at epoch {self.epoch + 1}, step {self.step + 1}")


def _test_batch(images: data.ImageSet) -> int:
    """Images of a batch in testing: 500 small ones, and fewer of large ones, which take more memory."""
    height, width = images.images.shape[2:]
    return max(1, min(500, 500 * 96 * 96 // (height * width)))


def _placed(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on its device, in the memory layout in which convolutions are fastest."""
    return model.to(device).to(memory_format=torch.channels_last)


def _objective(
    recipe: Recipe, model: nn.Module, images: data.ImageSet, size: tuple[int, int], say: Callable[[str], None]
) -> Objective:
    """What the network of the recipe is trained for."""
    asked = recipe.transfer
    device = next(model.parameters()).device
    teachers = load_teachers(asked, images, size, device, say, compile=recipe.compile)
    return Objective(
        model,
        teachers or None,
        beta=asked.weight("beta"),
        alpha=asked.weight("alpha"),
        temperature=asked.temperature,
        layers=asked.layers,
        power=asked.power,
        reduce=asked.reduce,
        form=asked.form,
        label_smoothing=recipe.label_smoothing,
        full_activation=asked.weight("full_activation"),
        gradient=asked.weight("gradient"),
        symmetry=asked.weight("symmetry"),
        input_gradient=asked.weight("input_gradient"),
        image_size=size,
        compile=recipe.compile,
    )


def _open_or_create(recipe: Recipe, folder: Path, classes: tuple[str, ...], resume: bool, overwrite: bool) -> Run:
    if not resume or not (folder / "recipe.yaml").is_file():
        return Run.create(folder, recipe, classes, overwrite=overwrite)
    run = Run.open(folder)
    for part in folder.rglob(".*.part"):  # what a killed process was writing
        part.unlink()
    now, then = _flat(plain(recipe)), _flat(plain(run.recipe))
    differing = [name for name in now if now[name] != then.get(name) and name not in _WHERE]
    if differing:
        changes = ", ".join(f"{name} was {then.get(name)!r}, is {now[name]!r}" for name in differing[:3])
        raise InputError(f"{folder} cannot be resumed with another recipe: {changes} (--overwrite starts anew)")
    return run


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in fields.items():
        if isinstance(value, dict) and not name.endswith("options"):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


@contextmanager
def _settings(recipe: Recipe) -> Iterator[None]:
    """torch's settings for the run, put back after it."""
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    benchmark = torch.backends.cudnn.benchmark
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = recipe.deterministic, not recipe.deterministic
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
