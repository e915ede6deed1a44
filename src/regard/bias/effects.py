"""What interventions change: drops of accuracy, and whether they are larger where a model looks away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from regard.bias.interventions import VARIANTS
from regard.bias.results import Results
from regard.bias.summary import comparable, rate
from regard.stats import Difference, independent_proportions, paired_proportions, without_nan


def effects(results: Results, which: np.ndarray | None = None) -> dict[str, Difference]:
    """Differences of accuracy within one model, uncorrected; `compare_all` corrects them with all others.

    Args:
        results: with interventions; without, there are no effects.
        which: bool (N,), some of the images; None: all.

    Returns:
        `drop_VARIANT`: the original minus the variant, on the images that have it (McNemar).
        `background_gap`: Mixed-Same minus `mixed_other`, on the images that have both (BG-Gap of Xiao et al.).
        `lost_VARIANT`: of the images that are predicted right, the share that the variant makes wrong: of those with
        position bias minus of those without (Fisher's exact test). Right predictions alone are compared, for wrong ones
        have nothing to lose.
    """
    rows = results.rows if which is None else {name: values[which] for name, values in results.rows.items()}
    return {
        measure: independent_proportions(int(first.sum()), len(first), int(second.sum()), len(second))
        if measure.startswith("lost_")
        else paired_proportions(first, second)
        for measure, (first, second) in _pairs(rows).items()
    }


def effect_records(results: Results, differences: Mapping[str, Difference]) -> list[dict[str, Any]]:
    """A dict per effect, JSON-ready.

    Args:
        results: of one model.
        differences: of `effects`, corrected or not.

    Returns:
        Dicts with `model`, `measure`, the fields of `Difference`, `significant` (None without a test), and the two
        rates with their intervals: `first` and `second` (`first_low`, …, `first_n`).
    """
    pairs = _pairs(results.rows)
    records = []
    for measure, difference in differences.items():
        record: dict[str, Any] = {"model": results.model, "measure": measure, **difference.to_record()}
        for side, flags in zip(("first", "second"), pairs[measure], strict=True):
            one = rate(flags)
            record |= without_nan(
                {side: one.value, f"{side}_low": one.low, f"{side}_high": one.high, f"{side}_n": one.n}
            )
        records.append(record)
    return records


def _pairs(rows: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Effect -> what is compared, bool vectors: of the same images, but for `lost_VARIANT` of different ones."""
    if VARIANTS[0] not in rows:
        return {}
    known = {name: ~np.isnan(rows[name]) for name in VARIANTS}
    right = {name: rows[name] == 1 for name in VARIANTS}
    pairs = {f"drop_{name}": (rows["correct"][known[name]], right[name][known[name]]) for name in VARIANTS}
    both = known["mixed_same"] & known["mixed_other"]
    pairs["background_gap"] = right["mixed_same"][both], right["mixed_other"][both]
    biased = rows["position_bias"]
    for name in VARIANTS:
        counted = comparable(rows) & rows["correct"] & known[name]
        pairs[f"lost_{name}"] = ~right[name][counted & biased], ~right[name][counted & ~biased]
    return pairs
