"""Each network against one of them, seed by seed: what training again would move, and what it would not."""

from __future__ import annotations

from dataclasses import dataclass

from regard.report.contrast import Contrast
from regard.report.differences import MEASURES
from regard.report.seed_groups import SeedGroup
from regard.tables.statistics import paired_difference, resolves


@dataclass(frozen=True)
class SeedDifference:
    """The difference of two networks over the seeds that both have.

    Attributes:
        value: the mean over the seeds, first minus second, -1 to 1.
        low: lower end of its 95% interval, by the paired t.
        high: upper end.
        p: two-sided, of the permutation test that changes the signs of the seeds' differences.
        seeds: how many both have, at least 2.
    """

    value: float
    low: float
    high: float
    p: float
    seeds: int

    @property
    def significant(self) -> bool:
        """Whether the interval leaves 0 out and chance would hardly give as much, which takes at least six seeds.

        Published tables decide alike where no direction was published.
        """
        return resolves(self.p, self.low, self.high)


@dataclass(frozen=True)
class SeedContrast(Contrast):
    """One network against the reference in one measure, over seeds."""

    difference: SeedDifference


def seed_difference(one: SeedGroup, other: SeedGroup, measure: str) -> SeedDifference | None:
    """One network minus another in a measure; None where fewer than two seeds have both.

    Args:
        one: a network whose runs are finished, as are those of the other.
        other: what it is compared with.
        measure: "accuracy", "position bias" or "range bias".
    """
    mine, theirs = one.values(measure), other.values(measure)
    seeds = sorted(mine.keys() & theirs.keys())
    if len(seeds) < 2:
        return None
    found = paired_difference([mine[seed] for seed in seeds], [theirs[seed] for seed in seeds])
    assert found.low is not None and found.high is not None, "two pairs have an interval"
    return SeedDifference(found.difference / 100, found.low / 100, found.high / 100, found.p_two_sided, found.count)


def over_seeds(group: SeedGroup, reference: SeedGroup) -> tuple[SeedContrast, ...]:
    """A network against the reference in every measure that at least two seeds have of both."""
    if group is reference or not (group.finished and reference.finished):
        return ()
    found = []
    for measure in MEASURES:
        difference = seed_difference(group, reference, measure)
        if difference is not None:
            found.append(SeedContrast(f"{measure} ({difference.seeds} seeds)", difference))
    return tuple(found)
