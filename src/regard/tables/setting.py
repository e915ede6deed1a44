"""What runs of a table may have other than the published recipes, all alike: the data, the length, the precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from regard.errors import InputError
from regard.training import Recipe, with_fields

WITHIN = ("precision",)
"""The fields besides those of `data` that a setting may change."""


@dataclass(frozen=True)
class Setting:
    """The data and the share of the schedule that a table is filled with.

    Attributes:
        budget: every schedule is shortened to this share of its epochs, in (0, 1].
        overrides: fields of the recipe that are others, by dotted name, such as `data.train_images`.
    """

    budget: float = 1.0
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise InputError(f"the budget is {self.budget:g}; it is a share of the schedule, in (0, 1]")
        for name in self.overrides:
            if not name.startswith("data.") and name not in WITHIN:
                raise InputError(
                    f"{name} is part of what the table compares; only data.… and {', '.join(WITHIN)} may be others "
                    "(for another recipe, write a table file of your own)"
                )

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe in this setting."""
        overrides = dict(self.overrides)
        if overrides.get("data.name", recipe.data.name) != recipe.data.name:
            overrides.setdefault("data.options", {})  # those of the recipe are of its own data set
        changed = with_fields(recipe, overrides)
        return replace(changed, schedule=shortened(recipe.schedule, epochs_of(recipe.schedule.epochs, self.budget)))


def epochs_of(epochs: int, budget: float) -> int:
    """How many epochs a schedule has that is shortened to a share of its length: at least 1."""
    return max(1, math.floor(epochs * budget + 0.5))


def shortened(schedule: Any, epochs: int) -> Any:
    """A schedule of so many epochs, with milestones and warm-up in proportion; milestones at epoch 1 at the earliest.

    It depends on the number of epochs alone, so that a run shows what it is a shortened form of.
    """
    if epochs == schedule.epochs:
        return schedule
    share = epochs / schedule.epochs
    milestones = [max(1, math.floor(milestone * share + 0.5)) for milestone in schedule.milestones]
    return replace(schedule, epochs=epochs, milestones=milestones, warmup=schedule.warmup * share)
