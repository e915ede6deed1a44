"""Whether losses and gradients say that a run is lost."""

from __future__ import annotations

from torch import nn

from regard.errors import InputError
from regard.training.meter import Measured
from regard.training.recipe import Recipe
from regard.training.run import Run
from regard.training.schedule import learning_rate

_SKIPPED = 50  # steps left out one after another, after which a run is given up


def check_weights(model: nn.Module, run: Run) -> None:
    """Raises InputError if a weight is no number, or infinite: before it is tested or saved."""
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise InputError(
            f"weights are no numbers, or infinite ({broken[0]} and {len(broken) - 1} more); {_kept(run)} (try a lower "
            "learning rate, a warm-up, or optimizer.clip)"
        )


def check_measured(measured: Measured, recipe: Recipe, run: Run, epoch: int, steps: int, lost: int = 0) -> None:
    """Stops a run whose numbers are none, or infinite.

    With float16, whose loss is scaled too much now and then, and where the recipe has such steps skipped, only one step
    after another without a finite gradient is the end.

    Args:
        measured: the steps of the epoch so far.
        recipe: of the run.
        run: its folder.
        epoch: from 0.
        steps: of a whole epoch.
        lost: steps without a finite gradient, one after another, right before this epoch.

    Raises:
        InputError: the run is lost.
    """
    bad = measured.bad()
    tolerant = recipe.nonfinite == "skip" or recipe.precision == "float16"
    lost = measured.lost(lost)
    if not bad or (tolerant and lost < _SKIPPED):
        return
    first = bad[-lost:][0] if tolerant else bad[0]
    lr = learning_rate(recipe.schedule, recipe.optimizer.lr, epoch * steps + first, steps)
    raise InputError(
        f"the {'loss' if measured.loss_is_bad(first) else 'gradient'} is no number, or infinite, in epoch {epoch + 1}, "
        f"step {first + 1}{f', and in {lost} steps one after another' if tolerant else ''}, at learning rate {lr:.3g}; "
        f"{_kept(run)} (try a lower learning rate, a warm-up, or optimizer.clip)"
    )


def _kept(run: Run) -> str:
    there = run.checkpoints.is_dir() and any(run.checkpoints.iterdir())
    return f"{'the last good checkpoint is kept' if there else 'there is no checkpoint yet'} in {run.checkpoints}"
