"""What is measured in the course of an epoch, kept on the device until it is asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.logits import predicted_classes
from regard.transfer import Losses

TERMS = ("attention", "distillation", "full_activation", "gradient", "symmetry", "input_gradient")
"""The terms of `Losses` besides the task."""
_COLUMNS = ("images", "loss", "task", *TERMS, "accuracy", "gradient_norm")
_NORM = _COLUMNS.index("gradient_norm")


class Meter:
    """A row of sums a step, so that reading them waits for the device only when they are read.

    Sums are of this process. Those of several are added by whoever knows them all.

    Args:
        steps: of the epoch.
        like: a parameter of the network: the rows are where it is, in its precision, float32 at least.

    Attributes:
        rows: (steps, columns): images, then sums over the images, then the gradient's norm.
    """

    def __init__(self, steps: int, like: Tensor) -> None:
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.rows = torch.zeros(steps, len(_COLUMNS), device=like.device, dtype=dtype)

    @torch.no_grad()
    def add(self, step: int, losses: Losses, labels: Tensor) -> None:
        """Adds the images of a step, or of a part of it."""
        zero = self.rows.new_zeros(())
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        means = torch.stack(
            (
                zero + 1,
                losses.total,
                losses.task,
                *(_summed(getattr(losses, name), zero) for name in TERMS),
                (predicted_classes(losses.logits) == classes).to(zero.dtype).mean(),
            )
        )
        self.rows[step, :_NORM].add_(means, alpha=len(labels))

    @torch.no_grad()
    def add_norm(self, step: int, norm: Tensor, processes: int) -> None:
        """The norm of the gradient, which all processes have and only one of them counts."""
        self.rows[step, _NORM] = norm / processes


class Measured:
    """The rows of all processes, on the processor.

    Args:
        rows: (steps, columns), as `Meter.rows`.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows.cpu().double()

    @property
    def images(self) -> int:
        return int(self.rows[:, 0].sum())

    def bad(self) -> list[int]:
        """The steps whose loss or gradient is no number, or infinite."""
        return (~(self.rows[:, 1].isfinite() & self.rows[:, _NORM].isfinite())).nonzero()[:, 0].tolist()

    def lost(self, before: int) -> int:
        """How many of the last steps are bad one after another, after so many before these."""
        bad = set(self.bad())
        last_good = next((step for step in range(len(self.rows) - 1, -1, -1) if step not in bad), None)
        return before + len(self.rows) if last_good is None else len(self.rows) - 1 - last_good

    def loss_is_bad(self, step: int) -> bool:
        return not self.rows[step, 1].isfinite().item()

    def means(self) -> dict[str, float]:
        """The losses and the accuracy in [0, 1], means over the images; the gradient's norm, mean over the steps.

        Steps without a finite loss or gradient are left out.
        """
        rows = self.rows[self.rows[:, 1].isfinite() & self.rows[:, _NORM].isfinite()]
        images = rows[:, 0].sum().item()
        if not images:
            return {}
        means = {name: rows[:, i].sum().item() / images for i, name in enumerate(_COLUMNS[1:_NORM], start=1)}
        return {**means, "gradient_norm": rows[:, _NORM].mean().item()}


def _summed(term: Tensor | tuple[Tensor, ...] | None, zero: Tensor) -> Tensor:
    """A term of the loss, 0 where it was not computed."""
    if isinstance(term, tuple):
        return torch.stack(term).sum() if term else zero
    return zero if term is None else term
