"""Optimizers by name, torch's SGD and AdamW and those of timm, and the learning rate over time."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import timm.optim
import torch
from torch import nn, optim

from regard.errors import InputError, first_line, unknown
from regard.training.recipe import OptimizerRecipe, ScheduleRecipe

_FUSED = (optim.SGD, optim.Adam, optim.AdamW)  # have a kernel for all parameters at once on CUDA
# What optimizers take and training does not: to climb, to be derived, to be part of a CUDA graph.
_NOT_HERE = ("maximize", "differentiable", "capturable")


@dataclass(frozen=True)
class _Kind:
    """An optimizer.

    Attributes:
        make: its class.
        fields: its arguments that are fields of the recipe, and no options.
        options: what it is made with if the recipe's options do not say otherwise.
    """

    make: Any
    fields: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def known(self) -> list[str]:
        """The arguments that are options."""
        taken = ("params", *self.fields, *_NOT_HERE)
        return [name for name in inspect.signature(self.make).parameters if name not in taken]


@cache
def _kinds() -> dict[str, _Kind]:
    fields = ("lr", "weight_decay")
    kinds = {}
    for name in map(str, timm.optim.list_optimizers()):
        info = timm.optim.get_optimizer_info(name)
        # Not those that need apex or bitsandbytes, nor those that need second derivatives.
        if not isinstance(info.opt_class, str) and not info.second_order:
            momentum = ("momentum",) if info.has_momentum else ()
            kinds[name] = _Kind(info.opt_class, (*fields, *momentum), info.defaults or {})
    kinds["sgd"] = _Kind(optim.SGD, (*fields, "momentum", "nesterov"))
    kinds["adamw"] = _Kind(optim.AdamW, fields)
    return kinds


def optimizer_names() -> list[str]:
    """The names that a recipe can give an optimizer, sorted."""
    return sorted(_kinds())


def check_optimizer(recipe: OptimizerRecipe) -> None:
    """Finds what is wrong with the name, the options, the momentum before there is a network.

    Raises:
        InputError: an unknown name or option, an option that is a field of the recipe, a value that the optimizer does
            not take, a momentum or nesterov for one without.
    """
    if recipe.name not in _kinds():
        raise unknown("optimizer", recipe.name, _kinds())
    kind = _kinds()[recipe.name]
    for option in recipe.options:
        if option in kind.fields:
            raise InputError(f"optimizer.options has {option}; give it as optimizer.{option}")
        if option not in kind.known:
            raise unknown(f"option of optimizer {recipe.name}", option, kind.known)
    if "momentum" not in kind.fields and recipe.momentum != OptimizerRecipe.momentum:
        raise InputError(
            f"optimizer.momentum is {recipe.momentum}, and {recipe.name} has none; leave it out"
            + (" (its betas are an option: optimizer.options)" if "betas" in kind.known else "")
        )
    if recipe.nesterov and "nesterov" not in kind.fields:
        as_option = " or give it in optimizer.options" if "nesterov" in kind.known else ""
        raise InputError(f"optimizer.nesterov is for sgd; optimizer.name is {recipe.name}: leave it out{as_option}")
    try:
        _try(recipe)
    except Exception as error:  # optimizers give almost any for a value that they do not take
        raise InputError(
            f"optimizer {recipe.name} does not take optimizer.options {recipe.options} ({first_line(error)})"
        ) from error


def make_optimizer(model: nn.Module, recipe: OptimizerRecipe, besides: Iterable[nn.Parameter] = ()) -> optim.Optimizer:
    """The optimizer of a recipe over all parameters of `model` that learn, and those `besides`, which decay as weights
    do.

    With `decay='weights'`, only what is called `weight` and has two dimensions or more decays: the kernels of
    convolutions and the matrices, not norms, biases or the parameters of gates. On CUDA, torch's SGD, Adam and AdamW
    take a step in one kernel (fused) if the options do not say otherwise; last digits differ from those of the others.

    Raises:
        InputError: see `check_optimizer`.
    """
    check_optimizer(recipe)
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    spared = [
        p
        for name, p in learning
        if recipe.decay == "weights" and not (name.rpartition(".")[2] == "weight" and p.ndim >= 2)
    ]
    groups: list[dict[str, Any]] = [{"params": spared, "weight_decay": 0.0}] if spared else []
    spared_ids = set(map(id, spared))
    decaying = [p for _, p in learning if id(p) not in spared_ids]
    groups.append({"params": [*decaying, *besides], "weight_decay": recipe.weight_decay})
    return _made(groups, recipe)


def reset_momentum(optimizer: optim.Optimizer) -> None:
    """Sets the momentum of SGD to zero, as before the first step; in place. Other optimizers stay as they are."""
    for state in optimizer.state.values():
        buffer = state.get("momentum_buffer")  # None before the first step, and without momentum
        if buffer is not None:
            buffer.zero_()


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


def _made(groups: Sequence[dict[str, Any]], recipe: OptimizerRecipe) -> optim.Optimizer:
    kind = _kinds()[recipe.name]
    # YAML has lists only; optimizers keep pairs as tuples.
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in recipe.options.items()}
    parameters = [p for group in groups for p in group["params"]]
    if kind.make in _FUSED and not {"fused", "foreach"} & options.keys() and _fuses(parameters):
        options["fused"] = True
    fields = {name: getattr(recipe, name) for name in kind.fields}
    made: optim.Optimizer = kind.make(groups, **{**kind.options, **fields, **options})
    return made


def _fuses(parameters: Sequence[nn.Parameter]) -> bool:
    return bool(parameters) and all(p.is_cuda and p.is_floating_point() for p in parameters)


def _try(recipe: OptimizerRecipe) -> None:
    """Makes the optimizer for one small matrix and, as some look at an option only then, takes two steps."""
    with torch.random.fork_rng(devices=[]):  # some draw random numbers
        matrix = nn.Parameter(torch.ones(2, 2))
        optimizer = _made([{"params": [matrix]}], recipe)
        matrix.grad = torch.ones_like(matrix)
        for _ in range(2 if recipe.options else 0):
            optimizer.step()
