"""What our runs say of a published difference, in words."""

from __future__ import annotations

from dataclasses import dataclass

from regard.tables.statistics import LEVEL, PairedDifference, least_p, pairs_needed
from regard.tables.words import counted, probability, signed


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

    The words, for a published direction, with runs of the published schedule and data: "reproduced" (ours goes the same
    way, and its 95% interval holds the published difference or lies beyond it), "same direction, smaller" (the interval
    falls short of it), "contradicted". With a shortened schedule or other data: "same direction, in another setting",
    "opposite direction, in another setting". Without a published direction: "better", "worse". Of any: "not resolved with N
    seeds", "one seed", "no runs".

    Args:
        published: the published difference in points, column minus the one it is to beat; None: not known.
        ours: of the same two columns; None: no seed has both.
        higher_is_better: whether more of the metric is better.
        faithful: whether the runs have the published schedule and data.
    """
    known = f"published {signed(published)}" if published is not None else "no difference is published"
    if ours is None:
        return Verdict("no runs", f"No seed has a run in both columns; {known}.")
    if not published:
        known += ", which gives no direction" if published is not None else ""
    up = published > 0 if published else higher_is_better
    along, against = (ours.p_greater, ours.p_less) if up else (ours.p_less, ours.p_greater)
    found = f"{signed(ours.difference)} points"
    if ours.low is None or ours.high is None:
        return Verdict("one seed", f"{found} with 1 seed, of which no spread is known; {known}.")
    found += f" (95% interval {signed(ours.low)} to {signed(ours.high)}) with {counted(ours.count, 'seed')}"
    if along >= LEVEL and against >= LEVEL:
        return Verdict(
            f"not resolved with {counted(ours.count, 'seed')}", f"{found}, {_why_not(ours, along)}; {known}."
        )
    agrees = along < LEVEL
    found += f", {probability(along if agrees else against)}"
    if not published:
        good = agrees == (up == higher_is_better)
        return Verdict("better" if good else "worse", f"{found}; {known}.")
    if not faithful:
        way = "same" if agrees else "opposite"
        return Verdict(f"{way} direction, in another setting", f"{found}; {known}, in its own setting.")
    if not agrees:
        return Verdict("contradicted", f"{found} that way; {known}.")
    # Along the published direction, whichever sign it has.
    size = abs(published)
    near, far = (ours.low, ours.high) if up else (-ours.high, -ours.low)
    if far < size:
        return Verdict("same direction, smaller", f"{found}; {known}, which is more than the interval reaches.")
    if near > size:
        return Verdict("reproduced", f"{found}; {known}, and ours is larger.")
    return Verdict("reproduced", f"{found}; {known}, which the interval holds.")


def _why_not(ours: PairedDifference, along: float) -> str:
    needed, least = pairs_needed(), least_p(ours.count)
    if ours.count >= needed:
        return f"{probability(along)}"
    return f"{probability(along)}; {counted(ours.count, 'pair')} cannot give less than p = {least:.3g}, {needed} would"
