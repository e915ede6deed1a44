"""A network against the reference in one measure, as the pages show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from regard.formatting import points, signed


class Paired(Protocol):
    """A difference counted on the same images; see `bias.compare`."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def p(self) -> float | None: ...
    @property
    def significant(self) -> bool: ...


@dataclass(frozen=True)
class Contrast:
    """A difference, and how it is written.

    Attributes:
        measure: "accuracy", "position bias", …
        difference: the network minus the reference, with its 95% interval.
        points: whether it is of rates, and is written as points of a percentage; else as a plain number.
    """

    measure: str
    difference: Paired
    points: bool = field(default=True, kw_only=True)

    @property
    def significant(self) -> bool:
        """Whether p, corrected for all differences of its comparison, is below 0.05."""
        return self.difference.significant

    @property
    def direction(self) -> str:
        """ "higher", "lower" or "not significant"."""
        if not self.significant:
            return "not significant"
        return "higher" if self.difference.value > 0 else "lower"

    @property
    def value(self) -> str:
        """The difference with its sign: +3.1, −0.004."""
        return self._written(self.difference.value, self._narrow)

    @property
    def size(self) -> str:
        """The difference without its sign."""
        return self.value.lstrip("+−")

    @property
    def low(self) -> str:
        """The lower end of the interval."""
        return self._end(self.difference.low)

    @property
    def high(self) -> str:
        """The upper end of the interval."""
        return self._end(self.difference.high)

    @property
    def _narrow(self) -> int:
        """How many more digits say something: of many images, one."""
        return 1 if self.difference.high - self.difference.low < 0.002 else 0

    def _end(self, value: float) -> str:
        written = self._written(value, self._narrow)
        at_zero = self.significant and not written.strip("+−0.")  # though the interval leaves it out
        return self._written(value, self._narrow + 1) if at_zero else written

    def _written(self, value: float, more: int) -> str:
        return points(value, 1 + more) if self.points else signed(value, 3 + more)


@dataclass(frozen=True)
class Group:
    """The contrasts of one network.

    Attributes:
        name: of the network.
        style: of its mark, see `figures`.
        lines: its contrasts.
    """

    name: str
    style: int
    lines: tuple[Contrast, ...]

    @property
    def count(self) -> int:
        """Of its contrasts."""
        return len(self.lines)


def split(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """The significant contrasts and the others, each by network; networks without any are left out."""
    parts: tuple[list[Group], list[Group]] = ([], [])
    for group in groups:
        for part, significant in zip(parts, (True, False), strict=True):
            if lines := tuple(line for line in group.lines if bool(line.significant) is significant):
                part.append(Group(group.name, group.style, lines))
    return parts


def reach(groups: Sequence[Group]) -> float:
    """The largest distance from zero of any interval: the scale on which all are drawn."""
    ends = [abs(end) for group in groups for line in group.lines for end in (line.difference.low, line.difference.high)]
    return max(ends, default=0) or 1
