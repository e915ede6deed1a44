"""What all runs of a table may have other than published: data, precision, and a shortened schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from regard.errors import InputError
from regard.training import Recipe, ScheduleRecipe, with_fields

_OTHERS = ("precision",)  # fields besides those of `data` that may be overridden


@dataclass(frozen=True)
class Overrides:
    """What the runs of a table have other than its recipes.

    Attributes:
        shorten: share of its epochs to which every schedule is shortened, in (0, 1].
        fields: values of fields of the recipe, by dotted name, such as `data.train_images`.

    Raises:
        InputError: the fraction is out of range, or a field is one that the table compares.
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
                    f"{name} is part of what the table compares; only data.… and {', '.join(_OTHERS)} may be others "
                    "(for another recipe, write a table file of your own)"
                )

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with these overrides."""
        fields = dict(self.fields)
        if fields.get("data.name", recipe.data.name) != recipe.data.name:
            fields.setdefault("data.options", {})  # those of the recipe are of its own data set
        epochs = shortened_epochs(recipe.schedule.epochs, self.shorten)
        return replace(with_fields(recipe, fields), schedule=shortened(recipe.schedule, epochs))


def may_be_overridden(name: str) -> bool:
    """Whether runs of a table may have another value of a field, by its dotted name."""
    return name.startswith("data.") or name in _OTHERS


def shortened_epochs(epochs: int, fraction: float) -> int:
    """The epochs of a schedule that is shortened to a fraction of its length, at least 1."""
    return max(1, math.floor(epochs * fraction + 0.5))


def shortened(schedule: ScheduleRecipe, epochs: int) -> ScheduleRecipe:
    """A schedule of so many epochs, with milestones and warm-up in proportion; milestones at epoch 1 at the earliest.

    It depends on the number of epochs alone, so that a run shows what it is a shortened form of.
    """
    if epochs == schedule.epochs:
        return schedule
    fraction = epochs / schedule.epochs
    milestones = [max(1, math.floor(milestone * fraction + 0.5)) for milestone in schedule.milestones]
    return replace(schedule, epochs=epochs, milestones=milestones, warmup=schedule.warmup * fraction)
