"""Overrides of published recipes: data, precision, and a shortened schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from regard.errors import InputError
from regard.training import Recipe, ScheduleRecipe, with_fields

_OVERRIDABLE = ("precision",)  # in addition to all fields of `data`


@dataclass(frozen=True)
class Overrides:
    """Changes to all recipes of a table.

    Attributes:
        shorten: fraction of its epochs to which every schedule is shortened, in (0, 1].
        fields: values of recipe fields by dotted name, such as `data.train_images`.

    Raises:
        InputError: the fraction is out of range, or the table compares a field.
    """

    shorten: float = 1.0
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.shorten <= 1:
            raise InputError(
                f"schedules cannot be shortened to {self.shorten:g} of their epochs; expected a share in (0, 1]"
            )
        for name in self.fields:
            if not may_be_overridden(name):
                raise InputError(
                    f"{name} is compared by the table; only data.… and {', '.join(_OVERRIDABLE)} may be overridden "
                    "(for another recipe, write a table file of your own)"
                )

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with these overrides."""
        fields = dict(self.fields)
        if fields.get("data.name", recipe.data.name) != recipe.data.name:
            fields.setdefault("data.options", {})  # the recipe's options belong to its own data set
        epochs = shortened_epochs(recipe.schedule.epochs, self.shorten)
        return replace(with_fields(recipe, fields), schedule=shortened(recipe.schedule, epochs))


def may_be_overridden(name: str) -> bool:
    """Whether a field, by its dotted name, may differ from the published recipe."""
    return name.startswith("data.") or name in _OVERRIDABLE


def shortened_epochs(epochs: int, fraction: float) -> int:
    """Epochs of a schedule shortened to a fraction of its length, at least 1."""
    return max(1, math.floor(epochs * fraction + 0.5))


def shortened(schedule: ScheduleRecipe, epochs: int) -> ScheduleRecipe:
    """A schedule shortened to `epochs`, with proportional milestones (at least 1) and warm-up.

    The result depends only on the number of epochs, so that a run can be matched with its recipe.
    """
    if epochs == schedule.epochs:
        return schedule
    fraction = epochs / schedule.epochs
    milestones = [max(1, math.floor(milestone * fraction + 0.5)) for milestone in schedule.milestones]
    return replace(schedule, epochs=epochs, milestones=milestones, warmup=schedule.warmup * fraction)
