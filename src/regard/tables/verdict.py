"""What our runs say of a published difference, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regard.tables.statistics import LEVEL, PairedDifference, least_p, pairs_needed
from regard.tables.words import counted, probability, reach, signed

_ROUNDING = 1e-9  # of a point
_SIDED = {1: "one-sided", 2: "two-sided"}


@dataclass(frozen=True)
class Verdict:
    """What may be said of two columns.

    Attributes:
        words: "reproduced", "same direction, smaller", "contradicted", "better", "worse", "one seed", "no runs", … (see
            `verdict`).
        why: a sentence with the numbers.
        p: that decided; None of fewer than two seeds.
        sides: 1: p is one-sided, in the published direction; 2: it is two-sided; None: there is none.
    """

    words: str
    why: str
    p: float | None = None
    sides: Literal[1, 2] | None = None


def verdict(
    published: float | None, ours: PairedDifference | None, *, higher_is_better: bool, faithful: bool
) -> Verdict:
    """What runs of our own say of a published difference.

    A published difference says beforehand which way ours is to go, so where ours goes that way the test is one-sided.
    Where ours goes the other way, or no direction was published, nobody announced the direction: there the test is
    two-sided. A difference is resolved if p is below 0.05 and the 95% interval leaves zero out.

    The words, for a published direction and runs of the published schedule and data: "reproduced" (ours goes the same
    way, and its interval holds the published difference), "reproduced, larger" (the interval lies beyond it), "same
    direction, smaller" (the interval falls short of it), "contradicted". With a shortened schedule or other data: "same
    direction, in another setting", "opposite direction, in another setting". Without a published direction: "better",
    "worse". In all cases: "not resolved with N seeds", "one seed", "no runs".

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
    announced = direction if direction is not None and ours.difference * direction >= 0 else None
    sides: Literal[1, 2] = 2 if announced is None else 1
    p = ours.p_two_sided if announced is None else ours.p_toward(announced)
    found += f" (95% interval {reach(ours.low, ours.high)}) with {counted(ours.count, 'seed')}"
    found += f", {_SIDED[sides]} {probability(p)}"
    if ours.resolved(p):
        words, end = _resolved(direction, ours, higher_is_better, faithful)
    else:
        words, end = f"not resolved with {counted(ours.count, 'seed')}", ""
        found += _unresolved(ours.count, p, sides)
    return Verdict(words, f"{found}; {known}{end}.", p, sides)


def _unresolved(count: int, p: float, sides: int) -> str:
    """Why a difference is not resolved, where that is not to be seen from p."""
    if p < LEVEL:
        return ", but the interval holds zero"
    needed = pairs_needed(sides=sides)
    if count >= needed:
        return ""
    return f" ({count} pairs cannot give less than p = {least_p(count, sides):.3g}; {needed} could)"


def _resolved(
    direction: float | None, ours: PairedDifference, higher_is_better: bool, faithful: bool
) -> tuple[str, str]:
    """The words for a resolved difference, and how the sentence ends."""
    assert ours.low is not None and ours.high is not None, "what is resolved has an interval"
    rises = ours.difference > 0
    if direction is None:
        return "better" if rises == higher_is_better else "worse", ""
    agrees = rises == (direction > 0)
    if not faithful:
        return f"{'same' if agrees else 'opposite'} direction, in another setting", ", in its own setting"
    if not agrees:
        return "contradicted", ""
    near, far = (ours.low, ours.high) if rises else (-ours.high, -ours.low)  # along the published direction
    if far < abs(direction) - _ROUNDING:
        return "same direction, smaller", ", further than the interval reaches"
    if near > abs(direction) + _ROUNDING:
        return "reproduced, larger", ", and the whole interval lies beyond it"
    return "reproduced", ", which the interval holds"
