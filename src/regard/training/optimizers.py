"""Optimizers by name (torch's SGD and AdamW, and timm's), and the learning rate schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import timm.optim
import torch
from torch import nn, optim

from regard.errors import InputError, first_line, unknown
from regard.training.recipe import OptimizerRecipe, ScheduleRecipe

_FUSED = (optim.SGD, optim.Adam, optim.AdamW)  # have a fused kernel on CUDA
_UNSUPPORTED = ("params", "maximize", "differentiable", "capturable")  # arguments that a recipe cannot set


@cache
def optimizers() -> dict[str, tuple[Any, dict[str, Any]]]:
    """The class of each optimizer and its default arguments."""
    infos = {name: timm.optim.get_optimizer_info(name) for name in map(str, timm.optim.list_optimizers())}
    # Without optimizers that need apex, bitsandbytes or second derivatives.
    timm_optimizers = {
        name: (info.opt_class, info.defaults or {})
        for name, info in infos.items()
        if not isinstance(info.opt_class, str) and not info.second_order
    }
    return {**timm_optimizers, "sgd": (optim.SGD, {}), "adamw": (optim.AdamW, {})}


def _arguments(name: str) -> tuple[list[str], list[str]]:
    """The arguments of an optimizer that are fields of the recipe, and those that are `options`."""
    arguments = [key for key in inspect.signature(optimizers()[name][0]).parameters if key not in _UNSUPPORTED]
    fields = ["lr", "weight_decay", "momentum", *(["nesterov"] if name == "sgd" else [])]
    return [key for key in arguments if key in fields], [key for key in arguments if key not in fields]


def check_optimizer(recipe: OptimizerRecipe) -> None:
    """Raises InputError for an unknown optimizer or option, an invalid value, or a field that the optimizer lacks."""
    if recipe.name not in optimizers():
        raise unknown("optimizer", recipe.name, optimizers())
    fields, options = _arguments(recipe.name)
    for option in recipe.options:
        if option in fields:
            raise InputError(f"optimizer.options has {option}; give it as optimizer.{option}")
        if option not in options:
            raise unknown(f"option of optimizer {recipe.name}", option, options)
    if "momentum" not in fields and recipe.momentum != OptimizerRecipe.momentum:
        raise InputError(
            f"optimizer.momentum is {recipe.momentum}, but {recipe.name} has no momentum; leave it out"
            + (" (its betas are an option: optimizer.options)" if "betas" in options else "")
        )
    if recipe.nesterov and "nesterov" not in fields:
        as_option = " or give it in optimizer.options" if "nesterov" in options else ""
        raise InputError(f"optimizer.nesterov is for sgd; optimizer.name is {recipe.name}: leave it out{as_option}")
    try:  # on one small matrix; some optimizers check an option only in a step
        with torch.random.fork_rng(devices=[]):  # some optimizers draw random numbers
            matrix = nn.Parameter(torch.ones(2, 2))
            optimizer = _create([{"params": [matrix]}], recipe)
            matrix.grad = torch.ones_like(matrix)
            for _ in range(2 if recipe.options else 0):
                optimizer.step()
    except Exception as error:  # an optimizer may raise any error for an invalid value
        raise InputError(
            f"optimizer {recipe.name} does not take optimizer.options {recipe.options} ({first_line(error)})"
        ) from error


def make_optimizer(model: nn.Module, recipe: OptimizerRecipe, extra: Iterable[nn.Parameter] = ()) -> optim.Optimizer:
    """Builds the optimizer of a recipe for the trainable parameters of `model` and `extra` parameters.

    With `decay='weights'`, weight decay applies to parameters called `weight` with at least two dimensions (kernels of
    convolutions and matrices) and to `extra`, not to norms, biases or parameters of gates. On CUDA, torch's SGD, Adam
    and AdamW use their fused kernels by default, whose results differ in the last digits. Raises InputError if the
    optimizer or one of its options is invalid.
    """
    check_optimizer(recipe)
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        decays = recipe.decay == "all" or (name.split(".")[-1] == "weight" and p.ndim >= 2)
        if p.requires_grad:
            (decay if decays else no_decay).append(p)
    groups: list[dict[str, Any]] = [{"params": no_decay, "weight_decay": 0.0}] if no_decay else []
    groups.append({"params": [*decay, *extra], "weight_decay": recipe.weight_decay})
    return _create(groups, recipe)


def _create(groups: Sequence[dict[str, Any]], recipe: OptimizerRecipe) -> optim.Optimizer:
    optimizer_class, defaults = optimizers()[recipe.name]
    fields = {name: getattr(recipe, name) for name in _arguments(recipe.name)[0]}
    # YAML has only lists; optimizers expect tuples.
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in recipe.options.items()}
    parameters = [p for group in groups for p in group["params"]]
    fused = optimizer_class in _FUSED and parameters and all(p.is_cuda and p.is_floating_point() for p in parameters)
    if fused and not {"fused", "foreach"} & options.keys():
        options["fused"] = True
    optimizer: optim.Optimizer = optimizer_class(groups, **{**defaults, **fields, **options})
    return optimizer


def reset_momentum(optimizer: optim.Optimizer) -> None:
    """Resets the momentum of SGD to zero, in place; other optimizers are unchanged."""
    for state in optimizer.state.values():
        buffer = state.get("momentum_buffer")  # None before the first step, and without momentum
        if buffer is not None:
            buffer.zero_()


def learning_rate(schedule: ScheduleRecipe, height: float, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step.

    It rises linearly from near zero to `height` during the warm-up and reaches it in the first step after the warm-up.
    The cosine and linear shapes start there and reach `floor` times `height` right after the last step. Milestones
    count from the start of the run.

    Args:
        schedule: schedule of the recipe.
        height: highest learning rate.
        step: step from 0, over the whole run; after the end of the run the rate stays constant.
        steps_per_epoch: steps per epoch, at least 1.
    """
    epoch, progress = step // steps_per_epoch, step / steps_per_epoch
    if progress < schedule.warmup:
        return height * (step + 1) / (schedule.warmup * steps_per_epoch + 1)
    if schedule.shape == "milestones":
        return height * schedule.factor ** sum(epoch >= milestone for milestone in schedule.milestones)
    fraction = min((progress - schedule.warmup) / max(schedule.epochs - schedule.warmup, 1e-9), 1.0)
    factor = 1 - fraction if schedule.shape == "linear" else (1 + math.cos(math.pi * fraction)) / 2
    return height * (schedule.floor + (1 - schedule.floor) * factor)
