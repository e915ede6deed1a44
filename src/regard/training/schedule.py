"""The learning rate over time."""

from __future__ import annotations

import math

from regard.training.recipe import ScheduleRecipe


def learning_rate(schedule: ScheduleRecipe, height: float, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step.

    It rises along a line from near zero to its height over the warm-up, whose last step stays below the height by as
    much as one step of it rises. A cosine or a line begins where the warm-up ends and comes to `floor` of the height
    right after the last step; milestones count from the beginning of the run.

    Args:
        schedule: its shape.
        height: the learning rate at its height.
        step: counted from 0 over the whole run; the rate behind the end of a run is that of its end.
        steps_per_epoch: at least 1.
    """
    epoch, progress = step // steps_per_epoch, step / steps_per_epoch
    if progress < schedule.warmup:
        return height * (step + 1) / (schedule.warmup * steps_per_epoch + 1)
    if schedule.shape == "milestones":
        return height * schedule.factor ** sum(epoch >= milestone for milestone in schedule.milestones)
    through = min((progress - schedule.warmup) / max(schedule.epochs - schedule.warmup, 1e-9), 1.0)
    left = 1 - through if schedule.shape == "linear" else (1 + math.cos(math.pi * through)) / 2
    return height * (schedule.floor + (1 - schedule.floor) * left)
