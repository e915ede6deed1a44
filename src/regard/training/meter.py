"""Measurements of an epoch: losses, which stay on the device until they are read, and memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regard.errors import InputError
from regard.training.optimizers import learning_rate
from regard.training.run import Run
from regard.transfer import Losses

if TYPE_CHECKING:
    from regard.training.loop import Loop

_FIXED = ("gradient_norm", "images", "loss")
_SKIPPED = 50  # consecutive skipped steps after which a run stops with an error


class Meter:
    """Losses of one process with one row per step. They stay on the device, so that only reading waits for it.

    A term of the loss gets a column at the first step that has it.

    Args:
        steps: number of steps of the epoch.
        like: parameter of the network, which gives the device and the dtype (float32 at least).
        measures: what is measured besides the losses, such as accuracy.

    Attributes:
        columns: norm of the gradient, number of images, then sums over images: loss, measures, terms.
        rows: (steps, columns).
    """

    def __init__(self, steps: int, like: Tensor, measures: Sequence[str] = ()) -> None:
        self.columns = [*_FIXED, *measures]
        self._fixed = len(self.columns)
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.rows = torch.zeros(steps, self._fixed, device=like.device, dtype=dtype)

    @property
    def terms(self) -> list[str]:
        """Names of the terms of the loss so far."""
        return self.columns[self._fixed :]

    @torch.no_grad()
    def add(self, step: int, losses: Losses, images: int, measured: Sequence[Tensor] = ()) -> None:
        """Adds the losses of a step, or of a part of its images, and the means of the measures over these images."""
        self._widen(losses.terms)
        zero = self.rows.new_zeros(())
        terms = (losses.terms.get(name, zero) for name in self.terms)
        values = (zero + 1, losses.total, *measured, *terms)
        self.rows[step, 1:].add_(torch.stack([value.to(zero.dtype) for value in values]), alpha=images)

    def load(self, columns: dict[str, Tensor], *, main: bool) -> None:
        """Restores saved columns, which are sums over all processes.

        Args:
            columns: name -> (steps,).
            main: whether this process restores the values; in the other processes they start at zero.
        """
        self._widen(columns)
        for column, name in enumerate(self.columns):
            if main and name in columns:
                self.rows[:, column] = columns[name]

    def _widen(self, names: Iterable[str]) -> None:
        new = [name for name in names if name not in self.columns]
        if new:
            self.columns += new
            self.rows = torch.cat((self.rows, self.rows.new_zeros(len(self.rows), len(new))), 1)


class Measured:
    """The meters of all processes, summed and on the CPU.

    Args:
        columns: names, as in `Meter.columns`.
        rows: (steps, columns), as in `Meter.rows`, summed over the processes.

    Attributes:
        columns: name -> float64 (steps,).
        finite: bool (steps,), whether loss and gradient of each step are finite.
    """

    def __init__(self, columns: Sequence[str], rows: Tensor) -> None:
        self.columns = dict(zip(columns, rows.cpu().double().unbind(1), strict=True))
        self.finite = self.columns["loss"].isfinite() & self.columns["gradient_norm"].isfinite()

    def nonfinite(self) -> list[int]:
        """The steps whose loss or gradient is not finite."""
        return (~self.finite).nonzero()[:, 0].tolist()

    def nonfinite_at_end(self, before: int) -> int:
        """Number of consecutive nonfinite steps at the end, including `before` steps of the previous epoch."""
        good = self.finite.nonzero()[:, 0].tolist()
        return len(self.finite) - 1 - good[-1] if good else before + len(self.finite)

    def means(self) -> dict[str, float]:
        """Means over images of loss, terms and measures, and over steps of the norm of the gradient.

        Steps without a finite loss or gradient are left out.
        """
        columns = {name: values[self.finite] for name, values in self.columns.items()}
        images = columns.pop("images").sum().item()
        if not images:
            return {}
        norm = columns.pop("gradient_norm")
        means = {name: values.sum().item() / images for name, values in columns.items()}
        return {**means, "gradient_norm": norm.mean().item()}


def reset_peak_memory(device: torch.device) -> None:
    """Resets the measurement of peak memory on a GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """Peak memory in GiB: of tensors on the GPU, or of the process on the CPU (0 if the system does not report it)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB, on macOS in bytes
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def check_weights(loop: Loop) -> None:
    """Raises InputError if a weight is not finite. Called before weights are tested or saved."""
    broken = [name for name, weight in loop.model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise InputError(
            f"weights are NaN or infinite ({broken[0]} and {len(broken) - 1} more); {_checkpoint_status(loop.run)} "
            "(try a lower learning rate, a warm-up, or optimizer.clip)"
        )


def check_losses(loop: Loop, measured: Measured) -> None:
    """Checks that the losses and gradients of the epoch so far are finite.

    With float16, whose loss scale is too large now and then, and if the recipe skips such steps, only many consecutive
    steps without a finite gradient are an error.

    Raises:
        InputError: they are not finite.
    """
    recipe, steps, bad = loop.recipe, len(loop.loader), measured.nonfinite()
    tolerant = recipe.nonfinite == "skip" or recipe.precision == "float16"
    at_the_end = measured.nonfinite_at_end(loop.nonfinite_before)
    if not bad or (tolerant and at_the_end < _SKIPPED):
        return
    first = bad[-at_the_end:][0] if tolerant else bad[0]
    lr = learning_rate(recipe.schedule, recipe.optimizer.lr, loop.epoch * steps + first, steps)
    quantity = "gradient" if measured.columns["loss"][first].isfinite() else "loss"
    raise InputError(
        f"the {quantity} is NaN or infinite in epoch {loop.epoch + 1}, step {first + 1}"
        f"{f', and in {at_the_end} consecutive steps' if tolerant else ''}, at learning rate {lr:.3g}; "
        f"{_checkpoint_status(loop.run)} (try a lower learning rate, a warm-up, or optimizer.clip)"
    )


def _checkpoint_status(run: Run) -> str:
    exists = run.checkpoints.is_dir() and any(run.checkpoints.iterdir())
    return f"{'the last good checkpoint is kept' if exists else 'there is no checkpoint yet'} in {run.checkpoints}"
