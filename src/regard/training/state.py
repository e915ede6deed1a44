"""The state of a run between two steps: all that the rest of it depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from regard import models
from regard.errors import InputError, one_line
from regard.training.checkpoints import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from regard.training.loop import Loop


def save_state(loop: Loop, meter_rows: Tensor) -> None:
    """Saves the state of a loop; only one process does.

    Nothing in it depends on the process: what is random is drawn from the seed and the step.

    Args:
        loop: between two steps.
        meter_rows: of the epoch so far, summed over the processes.

    Raises:
        InputError: the checkpoint cannot be written; those before are still there.
    """
    state = {
        "epoch": loop.epoch,
        "step": loop.step,
        "processes": loop.processes.count,
        "model": loop.model.state_dict(),
        "ema": loop.average.kept.state_dict() if loop.recipe.ema else None,
        "regressors": loop.objective.regressors.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "scaler": loop.scaler.state_dict() if loop.scaler is not None else None,
        "rows": loop.rows,
        "unreadable": loop.unreadable,
        "meter": meter_rows,
    }
    save_checkpoint(loop.run.checkpoints, loop.steps_done, state)


def restore_state(loop: Loop) -> None:
    """Goes on from the newest checkpoint that can be read; from the start if there is none.

    Raises:
        InputError: no checkpoint can be read, or they are of another network or another version of regard.
    """
    state = load_checkpoint(loop.run.checkpoints, loop.display.say, loop.processes.of_all)
    if state is None:
        return
    missing = {
        "epoch",
        "step",
        "processes",
        "model",
        "ema",
        "optimizer",
        "scaler",
        "rows",
        "meter",
        "unreadable",
    } - state.keys()
    lacking = ", ".join(sorted(missing))
    if missing or state["meter"].shape[1:] != loop.meter.rows.shape[1:]:
        raise InputError(
            f"the newest checkpoint in {loop.run.checkpoints} is of another version of regard"
            f"{f' (it lacks {lacking})' if missing else ''}; start the run again (--overwrite)"
        )
    steps, before, now = len(state["meter"]), state["processes"], loop.processes.count
    if steps != len(loop.batches):
        raise InputError(
            f"an epoch of {loop.run.folder} had {steps} steps by {before} processes, and has {len(loop.batches)} by "
            f"{now}, since another last batch is left out; go on with as many as before, or start again (--overwrite)"
        )
    source = f"the checkpoint in {loop.run.checkpoints}"
    models.load_weights(loop.model, state["model"], source)
    if loop.recipe.ema:
        if state["ema"] is None:
            raise InputError(f"{source} is of a run without a moving average; start the run again (--overwrite)")
        models.load_weights(loop.average.kept, state["ema"], source)
    theirs, ours = state["optimizer"]["param_groups"], loop.optimizer.state_dict()["param_groups"]
    if any(
        not mine.keys() <= other.keys() for other, mine in zip(theirs, ours, strict=False)
    ):  # which torch would load
        raise InputError(f"{source} is of another optimizer; start the run again (--overwrite)")
    try:
        loop.objective.regressors.load_state_dict(state["regressors"])
        loop.optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(
            f"{source} is of another network or optimizer ({one_line(error)[:200]}); start the run again (--overwrite)"
        ) from error
    if loop.scaler is not None:
        loop.scaler.load_state_dict(state["scaler"])
    loop.epoch, loop.step, loop.rows = state["epoch"], state["step"], state["rows"]
    loop.unreadable = tuple(state["unreadable"])
    if loop.processes.main:  # the others add nothing to it
        loop.meter.rows.copy_(state["meter"])
    loop.display.say(
        f"resumed {loop.run.folder} at epoch {loop.epoch + 1}, step {loop.step + 1}"
        + (f" (by {now} processes, before by {before}: the same up to rounding)" if before != now else "")
    )
