"""What interventions change: drops of accuracy, and whether they are larger where a model looks away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from regard.bias.interventions import VARIANTS
from regard.bias.results import Results, comparable
from regard.stats import Difference, independent_proportions, paired_proportions, proportion, without_nan

GAP = "background_gap"


def drops(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Variant -> what it takes from each image, (N,): 1 where only the original is right, -1 where only the variant
    is, else 0; NaN where the image has no such variant. Empty without interventions."""
    return {name: rows["correct"] - rows[name] for name in VARIANTS if name in rows}


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
    if VARIANTS[0] not in rows:
        return {}
    known = {name: ~np.isnan(rows[name]) for name in VARIANTS}
    right = {name: rows[name] == 1 for name in VARIANTS}
    found = {
        f"drop_{name}": paired_proportions(rows["correct"][known[name]], right[name][known[name]]) for name in VARIANTS
    }
    both = known["mixed_same"] & known["mixed_other"]
    found[GAP] = paired_proportions(right["mixed_same"][both], right["mixed_other"][both])
    for name in VARIANTS:
        with_bias, without = (~right[name][one] for one in _by_bias(rows, name))
        found[f"lost_{name}"] = independent_proportions(
            int(with_bias.sum()), len(with_bias), int(without.sum()), len(without)
        )
    return found


def effect_records(results: Results, differences: Mapping[str, Difference]) -> list[dict[str, Any]]:
    """A dict per effect, JSON-ready.

    Args:
        results: of one model.
        differences: of `effects`, corrected or not.

    Returns:
        Dicts with `model`, `measure`, the fields of `Difference`, `significant` (None without a test), and the two
        rates with their intervals: `first` and `second` (`first_low`, …, `first_n`).
    """
    records = []
    for measure, difference in differences.items():
        kind, _, name = measure.partition("_")
        if measure == GAP:
            both = ~np.isnan(results.rows["mixed_same"]) & ~np.isnan(results.rows["mixed_other"])
            parts = results.rows["mixed_same"][both] == 1, results.rows["mixed_other"][both] == 1
        elif kind == "drop":
            known = ~np.isnan(results.rows[name])
            parts = results.rows["correct"][known], results.rows[name][known] == 1
        else:
            with_bias, without = _by_bias(results.rows, name)
            parts = results.rows[name][with_bias] == 0, results.rows[name][without] == 0
        record: dict[str, Any] = {"model": results.model, "measure": measure, **asdict(difference)}
        for side, flags in zip(("first", "second"), parts, strict=True):
            rate = proportion(int(flags.sum()), len(flags))
            record |= {side: rate.value, **{f"{side}_{key}": getattr(rate, key) for key in ("low", "high", "n")}}
        record["significant"] = None if difference.p is None else difference.significant
        records.append(without_nan(record))
    return records


def _by_bias(rows: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The images that are predicted right and have the variant: with position bias, and without, bool (N,)."""
    counted = comparable(rows) & rows["correct"] & ~np.isnan(rows[name])
    return counted & rows["position_bias"], counted & ~rows["position_bias"]
