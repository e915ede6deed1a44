"""Labels for the agreement of our runs with a published difference."""

from __future__ import annotations

from typing import Literal

from regard.stats import Difference, Vector, compatible

NO_RUNS, ONE_SEED, NOT_SIGNIFICANT = "no runs", "one seed", "not significant"
_TONES: dict[str, Literal["good", "mid", "bad"]] = {
    "compatible with published": "good",
    "larger than published": "good",
    "smaller than published": "mid",
    "same direction": "good",
    "better": "good",
    "opposite direction": "bad",
    "worse": "bad",
}


def verdict(
    published: float | None,
    ours: Difference,
    per_seed: Vector,
    *,
    runs: int | None,
    median: bool,
    higher_is_better: bool,
    faithful: bool,
) -> str:
    """The label of a comparison.

    With the published schedule and data: "significant, compatible with published", "significant, smaller than
    published", "significant, larger than published", "significant, opposite direction"; "significant, better" or
    "significant, worse" if no difference is published; "not significant", "one seed", "no runs". With a shortened
    schedule or other data, labels begin with "preliminary", and only the direction of a significant difference is
    compared with the published one.

    Args:
        published: the published difference; None if there is none.
        ours: our difference of the same two columns over seeds, after Holm's correction.
        per_seed: the differences whose mean is `ours`.
        runs: number of runs per published value; None if not stated.
        median: whether the published values are medians.
        higher_is_better: whether higher values of the metric are better.
        faithful: whether the runs have the published schedule and data.
    """
    if ours.n == 0:
        return NO_RUNS
    if not ours.significant:
        label = ONE_SEED if ours.n == 1 else NOT_SIGNIFICANT
    elif published is None:
        label = f"significant, {'better' if (ours.value > 0) == higher_is_better else 'worse'}"
    elif ours.value * published < 0:
        label = "significant, opposite direction"
    elif not faithful:
        label = "significant, same direction"
    elif compatible(per_seed, published, runs, median):
        label = "significant, compatible with published"
    else:
        label = f"significant, {'smaller' if abs(ours.value) < abs(published) else 'larger'} than published"
    return label if faithful else f"preliminary, {label}"


def tone(label: str) -> Literal["good", "mid", "bad", ""]:
    """The colour class of a label; "" for none."""
    return _TONES.get(label.rpartition("significant, ")[2], "") if "significant, " in label else ""
