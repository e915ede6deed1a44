"""Losses of an epoch, which stay on the device until they are read, and peak memory."""

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

_COLUMNS = ("gradient_norm", "images", "loss")
_MAX_SKIPPED = 50  # consecutive skipped steps after which a run stops with an error


class Meter:
    """Losses of one process, with one row per step. They stay on the device, because reading waits for it.

    A term of the loss gets a column at the first step that has it.

    Attributes:
        columns: names: norm of the gradient, number of images, then sums over images of loss, measures and terms.
        rows: (steps, columns), on the device of the parameter `like` and in its dtype, but at least float32.
    """

    def __init__(self, steps: int, like: Tensor, measures: Sequence[str] = ()) -> None:
        self.columns = [*_COLUMNS, *measures]
        self._first_term = len(self.columns)
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.rows = torch.zeros(steps, self._first_term, device=like.device, dtype=dtype)

    @property
    def terms(self) -> list[str]:
        """Names of the terms of the loss so far."""
        return self.columns[self._first_term :]

    @torch.no_grad()
    def add(self, step: int, losses: Losses, images: int, measures: Sequence[Tensor] = ()) -> None:
        """Adds the losses and measures of a step or micro-batch, which are means over `images` images."""
        self._add_columns(losses.terms)
        zero = self.rows.new_zeros(())
        terms = (losses.terms.get(name, zero) for name in self.terms)
        values = (zero + 1, losses.total, *measures, *terms)
        self.rows[step, 1:].add_(torch.stack([value.to(zero.dtype) for value in values]), alpha=images)

    def load(self, columns: dict[str, Tensor], *, main: bool) -> None:
        """Restores saved columns, name -> (steps,), which are sums over all processes; in the main process only."""
        self._add_columns(columns)
        for column, name in enumerate(self.columns):
            if main and name in columns:
                self.rows[:, column] = columns[name]

    def _add_columns(self, names: Iterable[str]) -> None:
        new = [name for name in names if name not in self.columns]
        if new:
            self.columns += new
            self.rows = torch.cat((self.rows, self.rows.new_zeros(len(self.rows), len(new))), 1)


class EpochLosses:
    """The columns and rows of a `Meter`, summed over all processes and on the CPU.

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
        """Number of consecutive nonfinite steps up to the last one, including `before` steps of the previous epoch."""
        steps = self.finite.nonzero()[:, 0].tolist()
        return len(self.finite) - 1 - steps[-1] if steps else before + len(self.finite)

    def means(self) -> dict[str, float]:
        """Means over images of the loss, its terms and the measures, and the mean norm of the gradient over steps.

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
    names = [name for name, weight in loop.model.named_parameters() if not weight.isfinite().all()]
    if names:
        raise InputError(
            f"weights are NaN or infinite ({names[0]} and {len(names) - 1} more); {_checkpoint_status(loop.run)} "
            "(try a lower learning rate, a warm-up, or optimizer.clip)"
        )


def check_losses(loop: Loop, losses: EpochLosses) -> None:
    """Raises InputError if a loss or gradient of the epoch so far is not finite.

    If the recipe or float16, whose loss scale is sometimes too large, skips such steps, only many in a row are an
    error.
    """
    recipe, steps, nonfinite = loop.recipe, len(loop.loader), losses.nonfinite()
    skips = recipe.nonfinite == "skip" or recipe.precision == "float16"
    consecutive = losses.nonfinite_at_end(loop.nonfinite_before)
    if not nonfinite or (skips and consecutive < _MAX_SKIPPED):
        return
    first = nonfinite[-consecutive:][0] if skips else nonfinite[0]
    lr = learning_rate(recipe.schedule, recipe.optimizer.lr, loop.epoch * steps + first, steps)
    quantity = "gradient" if losses.columns["loss"][first].isfinite() else "loss"
    raise InputError(
        f"the {quantity} is NaN or infinite in epoch {loop.epoch + 1}, step {first + 1}"
        f"{f', and in {consecutive} consecutive steps' if skips else ''}, at learning rate {lr:.3g}; "
        f"{_checkpoint_status(loop.run)} (try a lower learning rate, a warm-up, or optimizer.clip)"
    )


def _checkpoint_status(run: Run) -> str:
    exists = run.checkpoints.is_dir() and any(run.checkpoints.iterdir())
    return f"{'the last good checkpoint is kept' if exists else 'there is no checkpoint yet'} in {run.checkpoints}"
