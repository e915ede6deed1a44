"""What is measured in an epoch: losses, kept on the device until they are read, and memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regard.errors import InputError
from regard.logits import predicted_classes
from regard.training.optimizers import learning_rate
from regard.training.run import Run
from regard.transfer import Losses

if TYPE_CHECKING:
    from regard.training.loop import Loop

_FIXED = ("gradient_norm", "images", "loss", "accuracy")
_SKIPPED = 50  # steps left out one after another, after which a run is given up


class Meter:
    """One row per step, so that reading them waits for the device only when they are read.

    A term of the loss gets a column at the first step that has it. Sums are of this process; those of several are added
    by whoever knows them all.

    Args:
        steps: of the epoch.
        like: a parameter of the network: the rows are where it is, in its precision, float32 at least.

    Attributes:
        columns: the gradient's norm, the number of images, then sums over the images: loss, correct answers, terms.
        rows: (steps, columns).
    """

    def __init__(self, steps: int, like: Tensor) -> None:
        self.columns = list(_FIXED)
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.rows = torch.zeros(steps, len(_FIXED), device=like.device, dtype=dtype)

    @property
    def terms(self) -> list[str]:
        """The names of the terms of the loss so far."""
        return self.columns[len(_FIXED) :]

    @torch.no_grad()
    def add(self, step: int, losses: Losses, labels: Tensor) -> None:
        """Adds the images of a step, or of a part of it."""
        self._widen(losses.terms)
        zero = self.rows.new_zeros(())
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        correct = (predicted_classes(losses.logits) == classes).to(zero.dtype).mean()
        terms = (losses.terms.get(name, zero) for name in self.terms)
        self.rows[step, 1:].add_(torch.stack((zero + 1, losses.total, correct, *terms)), alpha=len(labels))

    def load(self, columns: dict[str, Tensor], *, here: bool) -> None:
        """Goes on from what was saved, by name: (steps,) each, of all processes together.

        Args:
            columns: by name.
            here: whether this process is the one that goes on from it; the others have the columns and add nothing.
        """
        self._widen(columns)
        for column, name in enumerate(self.columns):
            if here and name in columns:
                self.rows[:, column] = columns[name]

    def _widen(self, names: Iterable[str]) -> None:
        new = [name for name in names if name not in self.columns]
        if new:
            self.columns += new
            self.rows = torch.cat((self.rows, self.rows.new_zeros(len(self.rows), len(new))), 1)


class Measured:
    """What the meters of all processes say together, on the processor.

    Args:
        columns: as `Meter.columns`.
        rows: (steps, columns), as `Meter.rows`, summed over the processes.

    Attributes:
        columns: by name, float64 (steps,).
        finite: whether loss and gradient of each step are finite, (steps,).
    """

    def __init__(self, columns: Sequence[str], rows: Tensor) -> None:
        self.columns = dict(zip(columns, rows.cpu().double().unbind(1), strict=True))
        self.finite = self.columns["loss"].isfinite() & self.columns["gradient_norm"].isfinite()

    def bad(self) -> list[int]:
        """The steps whose loss or gradient is not finite."""
        return (~self.finite).nonzero()[:, 0].tolist()

    def bad_at_the_end(self, before: int) -> int:
        """How many of the last steps are bad one after another, after so many before these."""
        good = self.finite.nonzero()[:, 0].tolist()
        return len(self.finite) - 1 - good[-1] if good else before + len(self.finite)

    def means(self) -> dict[str, float]:
        """Means over the images: loss, terms, and accuracy in [0, 1]; the gradient's norm, mean over the steps.

        Steps without a finite loss or gradient are left out.
        """
        columns = {name: values[self.finite] for name, values in self.columns.items()}
        images = columns.pop("images").sum().item()
        if not images:
            return {}
        norm, accuracy = columns.pop("gradient_norm"), columns.pop("accuracy")
        means = {name: values.sum().item() / images for name, values in columns.items()}
        return {**means, "accuracy": accuracy.sum().item() / images, "gradient_norm": norm.mean().item()}


def reset_peak_memory(device: torch.device) -> None:
    """Begins to measure anew, where that can be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """The most memory that was in use, in GiB: by tensors on the GPU, or by the process since it began (0 where the
    system does not say).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB, on macOS in bytes
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def check_weights(loop: Loop) -> None:
    """Raises InputError if a weight is not finite: before it is tested or saved."""
    broken = [name for name, weight in loop.model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise InputError(
            f"weights are NaN or infinite ({broken[0]} and {len(broken) - 1} more); {_kept(loop.run)} (try a lower "
            "learning rate, a warm-up, or optimizer.clip)"
        )


def check_losses(loop: Loop, measured: Measured) -> None:
    """Stops a run whose losses or gradients in the steps of the epoch so far are not finite.

    With float16, whose loss is scaled too much now and then, and where the recipe has such steps skipped, only many
    steps one after another without a finite gradient are the end.

    Raises:
        InputError: the run is to be stopped.
    """
    recipe, steps, bad = loop.recipe, len(loop.loader), measured.bad()
    tolerant = recipe.nonfinite == "skip" or recipe.precision == "float16"
    at_the_end = measured.bad_at_the_end(loop.bad_before)
    if not bad or (tolerant and at_the_end < _SKIPPED):
        return
    first = bad[-at_the_end:][0] if tolerant else bad[0]
    lr = learning_rate(recipe.schedule, recipe.optimizer.lr, loop.epoch * steps + first, steps)
    what = "gradient" if measured.columns["loss"][first].isfinite() else "loss"
    raise InputError(
        f"the {what} is NaN or infinite in epoch {loop.epoch + 1}, step {first + 1}"
        f"{f', and in {at_the_end} steps one after another' if tolerant else ''}, at learning rate {lr:.3g}; "
        f"{_kept(loop.run)} (try a lower learning rate, a warm-up, or optimizer.clip)"
    )


def _kept(run: Run) -> str:
    there = run.checkpoints.is_dir() and any(run.checkpoints.iterdir())
    return f"{'the last good checkpoint is kept' if there else 'there is no checkpoint yet'} in {run.checkpoints}"
