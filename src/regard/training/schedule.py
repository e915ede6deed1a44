"""The learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn, optim

from regard.training.recipe import OptimizerRecipe, ScheduleRecipe


def learning_rate(schedule: ScheduleRecipe, height: float, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step.

    Args:
        schedule: its shape.
        height: the learning rate at its height.
        step: counted from 0 over the whole run.
        steps_per_epoch: at least 1.
    """
    epoch, progress = step // steps_per_epoch, step / steps_per_epoch
    if progress < schedule.warmup:
        return height * (step + 1) / (schedule.warmup * steps_per_epoch + 1)
    if schedule.shape == "cosine":
        through = (progress - schedule.warmup) / max(schedule.epochs - schedule.warmup, 1e-9)
        return height * (1 + math.cos(math.pi * through)) / 2
    return height * schedule.factor ** sum(epoch >= milestone for milestone in schedule.milestones)


def make_optimizer(model: nn.Module, recipe: OptimizerRecipe, besides: Iterable[nn.Parameter] = ()) -> optim.SGD:
    """SGD over all parameters of `model` that learn, and those `besides`, which decay as weights do.

    With `decay='weights'`, only what is called `weight` and has two dimensions or more decays: the kernels of
    convolutions and the matrices, not norms, biases or the parameters of gates.
    """
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    spared = [
        p
        for name, p in learning
        if recipe.decay == "weights" and not (name.rpartition(".")[2] == "weight" and p.ndim >= 2)
    ]
    groups = [{"params": spared, "weight_decay": 0.0}] if spared else []
    spared_ids = set(map(id, spared))
    decaying = [p for _, p in learning if id(p) not in spared_ids]
    groups.append({"params": [*decaying, *besides], "weight_decay": recipe.weight_decay})
    return optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)
