"""What our runs say of a published difference, in words."""

from __future__ import annotations

from dataclasses import dataclass

from regard.tables.statistics import LEVEL, PairedDifference, least_p, pairs_needed
from regard.tables.words import counted, probability, reach, signed

_ROUNDING = 1e-9  # of a point


@dataclass(frozen=True)
class Verdict:
    """What may be said of two columns.

    Attributes:
        words: "reproduced", "same direction, smaller", "contradicted", "better", "worse", "one seed", "no runs", … (see
            `verdict`).
        why: a sentence with the numbers.
    """

    words: str
    why: str


def verdict(
    published: float | None, ours: PairedDifference | None, *, higher_is_better: bool, faithful: bool
) -> Verdict:
    """What runs of our own say of a published difference.

    The published difference says beforehand which way ours is to go, so the test is one-sided: p below 0.05 that way
    resolves the difference, p below 0.05 the other way resolves the contrary. Without a published direction "better" is
    asked for.

    The words, for a published direction and runs of the published schedule and data: "reproduced" (ours goes the same
    way, and its 95% interval holds the published difference or lies beyond it), "same direction, smaller" (the interval
    falls short of it), "contradicted". With a shortened schedule or other data: "same direction, in another setting",
    "opposite direction, in another setting". Without a published direction: "better", "worse". In all cases: "not
    resolved with N seeds", "one seed", "no runs".

    Args:
        published: the published difference in points, column minus the one it is to beat; None: not known.
        ours: of the same two columns; None: no seed has both.
        higher_is_better: whether more of the metric is better.
        faithful: whether the runs have the published schedule and data.
    """
    direction = None if published is None or abs(published) < _ROUNDING else published
    if published is None:
        known = "no difference is published"
    else:
        known = f"published {signed(published)}" + ("" if direction else ", which has no direction")
    if ours is None:
        return Verdict("no runs", f"No seed has a run in both columns; {known}.")
    found = f"{signed(ours.difference)} points"
    if ours.low is None or ours.high is None:
        return Verdict("one seed", f"{found} with 1 seed, which shows no spread; {known}.")
    found += f" (95% interval {reach(ours.low, ours.high)}) with {counted(ours.count, 'seed')}, {probability(ours.p)}"
    if ours.p >= LEVEL:
        limit, needed = least_p(ours.count), pairs_needed()
        if ours.count < needed:
            found += f" ({ours.count} pairs cannot give less than p = {limit:.3g}; {needed} could)"
        return Verdict(f"not resolved with {counted(ours.count, 'seed')}", f"{found}; {known}.")
    rises = ours.p_greater < ours.p_less
    if direction is None:
        return Verdict("better" if rises == higher_is_better else "worse", f"{found}; {known}.")
    agrees = rises == (direction > 0)
    if not faithful:
        way = "same" if agrees else "opposite"
        return Verdict(f"{way} direction, in another setting", f"{found}; {known}, in its own setting.")
    if not agrees:
        return Verdict("contradicted", f"{found}; {known}.")
    near, far = (ours.low, ours.high) if rises else (-ours.high, -ours.low)  # along the published direction
    if far < abs(direction) - _ROUNDING:
        return Verdict("same direction, smaller", f"{found}; {known}, further than the interval reaches.")
    if near > abs(direction) + _ROUNDING:
        return Verdict("reproduced", f"{found}; {known}, and ours is larger.")
    return Verdict("reproduced", f"{found}; {known}, which the interval holds.")
