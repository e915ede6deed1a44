"""What is measured in the course of an epoch, kept on the device until it is asked for."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from regard.transfer import Losses

TERMS = ("attention", "distillation", "full_activation", "gradient", "symmetry", "input_gradient")
"""The terms of `Losses` besides the task."""
_COLUMNS = ("images", "loss", "task", *TERMS, "correct")


class Meter:
    """A row of numbers a step, so that reading them waits for the device only when they are read.

    Args:
        steps: of the epoch.
        device: where the losses are.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        self.rows = torch.zeros(steps, len(_COLUMNS), device=device)

    @torch.no_grad()
    def add(self, step: int, losses: Losses, labels: Tensor) -> None:
        zero = losses.total.new_zeros(())
        self.rows[step] = torch.stack(
            (
                zero + len(labels),
                losses.total,
                losses.task,
                *(_summed(getattr(losses, name), zero) for name in TERMS),
                (losses.logits.argmax(1) == labels).sum().to(zero.dtype),
            )
        ).to(self.rows.dtype)

    def first_bad(self, steps: int) -> int | None:
        """The first of the first `steps` steps whose loss is no number, or infinite; None if there is none."""
        bad = (~self.rows[:steps, 1].isfinite()).nonzero()
        return int(bad[0]) if len(bad) else None

    def means(self, steps: int) -> dict[str, float]:
        """Over the images of the first `steps` steps: the losses, and the accuracy in [0, 1]."""
        rows = self.rows[:steps].cpu().double()
        images = rows[:, 0].sum().item()
        if not images:
            return {}
        means: dict[str, Any] = {
            name: (rows[:, i] * rows[:, 0]).sum().item() / images for i, name in enumerate(_COLUMNS[1:-1], start=1)
        }
        means["accuracy"] = rows[:, -1].sum().item() / images
        return {name: value for name, value in means.items() if not math.isnan(value)}


def _summed(term: Tensor | tuple[Tensor, ...] | None, zero: Tensor) -> Tensor:
    """A term of the loss, 0 where it was not computed."""
    if isinstance(term, tuple):
        return torch.stack(term).sum() if term else zero
    return zero if term is None else term
