"""Weights of loss terms that change over a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from regard.errors import InputError, check_fields, check_number, unknown

Shape = Literal["constant", "linear", "cosine", "step"]


@dataclass(frozen=True)
class Weight:
    """A weight that changes over the run; times are fractions of the run, 0 at its start and 1 at its end.

    - 'constant': `start` throughout;
    - 'linear': from `start` to `end` linearly, between the fractions `begin` and `until`;
    - 'cosine': the same along half a cosine;
    - 'step': `start`, multiplied by `factor` at each of the `milestones`.

    Args:
        start: the weight at the start of the run.
        end: for 'linear' and 'cosine', the weight from `until` on.
        shape: 'constant', 'linear', 'cosine' or 'step'.
        begin: for 'linear' and 'cosine', the fraction of the run at which the change begins, in [0, 1].
        until: for these, the fraction at which it ends, in (begin, 1].
        milestones: for 'step', the fractions at which the weight changes, in [0, 1].
        factor: for 'step'.

    Raises:
        InputError: values outside these ranges.
    """

    start: Annotated[float, "(-inf, inf)"]
    end: Annotated[float, "(-inf, inf)"] = 0.0
    shape: Shape = "linear"
    begin: Annotated[float, "[0, 1]"] = 0.0
    until: Annotated[float, "[0, 1]"] = 1.0
    milestones: tuple[float, ...] = ()
    factor: Annotated[float, "(-inf, inf)"] = 0.1

    def __post_init__(self) -> None:
        check_fields(self, "weight.")
        for milestone in self.milestones:
            check_number("a milestone of a weight, a fraction of the run,", milestone, "[0, 1]", whole=False)
        if self.begin >= self.until:
            raise InputError(f"a weight changes from {self.begin} to {self.until} of the run; give begin < until")
        if self.shape == "step" and not self.milestones:
            raise InputError(
                "a weight of shape step has no milestones; give fractions of the run, for example [0.3, 0.6]"
            )
        try:
            finite = all(map(math.isfinite, self.values))
        except OverflowError:
            finite = False
        if not finite:
            raise InputError(
                f"a weight of {self.start} times {self.factor} at every milestone does not stay finite; give a smaller "
                "factor"
            )

    def at(self, progress: float) -> float:
        """The weight when the fraction `progress` of the run, in [0, 1], is over."""
        if self.shape == "constant":
            return self.start
        if self.shape == "step":
            return self.start * self.factor ** sum(progress >= milestone for milestone in self.milestones)
        fraction = min(max((progress - self.begin) / (self.until - self.begin), 0.0), 1.0)
        if self.shape == "cosine":
            fraction = (1 - math.cos(math.pi * fraction)) / 2
        return self.start + (self.end - self.start) * fraction

    @property
    def values(self) -> tuple[float, ...]:
        """The weight at the start, at the milestones and at the end, among which are its minimum and maximum."""
        return tuple(self.at(progress) for progress in (0.0, *sorted(self.milestones), 1.0))

    @property
    def used(self) -> bool:
        """Whether the weight is not 0 throughout."""
        return any(self.values)

    def __str__(self) -> str:
        if self.shape == "constant" or (self.shape != "step" and self.start == self.end):
            return f"{self.start:g}"
        first, last = self.at(0.0), self.at(1.0)
        return f"{first:g} to {last:g}" if self.shape == "linear" else f"{first:g} to {last:g} ({self.shape})"


def as_weight(value: float | Weight | Mapping[str, Any]) -> Weight:
    """A `Weight` from a number, which is then constant, or from its fields.

    Raises:
        InputError: neither a number nor fields of a `Weight`.
    """
    if isinstance(value, Weight):
        return value
    if not isinstance(value, Mapping):
        check_number("a weight", value, "(-inf, inf)", whole=False)
        return Weight(value, shape="constant")
    known = [field.name for field in fields(Weight)]
    for name in value:
        if name not in known:
            raise unknown("field of a weight", name, known)
    if "start" not in value:
        raise InputError(f"a weight is {dict(value)!r}, without a start; give its start")
    milestones = value.get("milestones", ())
    if not isinstance(milestones, Sequence) or isinstance(milestones, str):
        raise InputError(f"milestones of a weight are {milestones!r}; give a list of fractions of the run")
    return Weight(**{**value, "milestones": tuple(milestones)})


def check_range(name: str, weight: Weight, least: float = 0.0, greatest: float = math.inf) -> None:
    """Raises InputError unless the weight called `name` stays in a range."""
    if not all(least <= value <= greatest for value in weight.values):
        allowed = f"in [{least:g}, {greatest:g}]" if greatest < math.inf else f"at least {least:g}"
        raise InputError(f"{name} is {weight}; it has to be {allowed}")
