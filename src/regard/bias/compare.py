"""Differences between models on the same images, image by image, and what interventions change within one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import figures
from regard.bias.interventions import VARIANTS
from regard.bias.results import Results
from regard.bias.summary import comparable, rate
from regard.errors import InputError, unknown
from regard.notebook import Tabular
from regard.stats import Difference, holm, independent_proportions, interval_record, paired_means, paired_proportions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = ("position_bias", "range_bias", "pointing")
MEANS = ("spill", "miss", "iou", "mean_iou", "energy_inside", "auc", "rank_accuracy")
_OPTIONS = ("dataset", "split", "method", "layer", "target", "threshold", "margin", "tolerance")


@dataclass(frozen=True)
class Comparison(Tabular):
    """Differences between two results.

    Attributes:
        model: name of the first model.
        reference: name of the second.
        differences: name of measure -> the first minus the second. `accuracy` is over the images with a label, and
            there if both results are scored; `drop_VARIANT`, what an intervention takes from it, over the images that
            have it, where both results have interventions; all others are over the images with a region and, in both
            results, a focus, and means over those where the measure is a number in both. Measures with fewer than two
            images are left out.
        notes: images that only one of the results has, and options in which the two differ.
    """

    model: str
    reference: str
    differences: dict[str, Difference]
    notes: tuple[str, ...] = ()

    def plot(self, measures: Sequence[str] = ()) -> Figure:
        """A matplotlib figure of differences with their 95% intervals.

        Args:
            measures: of `differences`; empty: all.

        Raises:
            InputError: a measure that is not among them.
        """
        for name in measures:
            if name not in self.differences:
                raise unknown("measure", name, self.differences)
        rows = {name.replace("_", " "): self.differences[name] for name in measures or self.differences}
        return figures.intervals(rows, xlabel=f"{self.model} minus {self.reference}", level=0)

    def to_records(self) -> list[dict[str, Any]]:
        """A dict per measure, JSON-ready: `model`, `reference`, `measure`, fields of `Difference`, `significant` (None
        without a test)."""
        return [
            {"model": self.model, "reference": self.reference, "measure": measure, **difference.to_record()}
            for measure, difference in self.differences.items()
        ]


def compare(results: Results, reference: Results) -> Comparison:
    """Differences between two evaluations of the same images: the first minus the second, image by image.

    Rates by McNemar's exact test with Newcombe's interval, means by the paired t test; all corrected together (Holm).
    They are about all images of this kind, not about another training run.

    Images are matched by their keys; those that only one has are left out, and counted in the notes.

    Raises:
        InputError: the results have no image in common, or give the same images different labels, or, under different
            names of the data set, different regions; or no image has a focus in both.
    """
    comparison = _compare(results, reference)
    return replace(comparison, differences=holm(comparison.differences))


def compare_all(
    results: Sequence[Results],
) -> tuple[list[Comparison | None], list[dict[str, Difference]], list[str]]:
    """Each later results against the first, and what interventions change in each, all corrected together (Holm).

    Returns:
        A comparison per later results, None where the two cannot be compared; the `effects` of the interventions per
        results, empty without any; and a note per None with the reason.
    """
    comparisons: list[Comparison | None] = []
    notes = []
    for one in results[1:]:
        try:
            comparisons.append(_compare(one, results[0]))
        except InputError as error:
            comparisons.append(None)
            notes.append(f"{one.model} is not compared with {results[0].model}: {error}.")
    families = [{} if one is None else one.differences for one in comparisons] + [effects(one) for one in results]
    corrected = holm({(i, name): one for i, family in enumerate(families) for name, one in family.items()})
    families = [{name: corrected[i, name] for name in family} for i, family in enumerate(families)]
    return (
        [one and replace(one, differences=family) for one, family in zip(comparisons, families, strict=False)],
        families[len(comparisons) :],
        notes,
    )


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
        for measure, (first, second) in _effect_pairs(rows).items()
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
    pairs = _effect_pairs(results.rows)
    records = []
    for measure, difference in differences.items():
        record: dict[str, Any] = {"model": results.model, "measure": measure, **difference.to_record()}
        for side, flags in zip(("first", "second"), pairs[measure], strict=True):
            one = rate(flags)
            record |= {**interval_record(side, one), f"{side}_n": one.n}
        records.append(record)
    return records


def _compare(first: Results, second: Results) -> Comparison:
    """Without correction."""
    a, b, notes = _matched(first, second)
    both = comparable(a) & comparable(b)
    if not both.any():
        raise InputError(f"none of {len(both)} images has a region and a focus in both results; nothing to compare")
    differences = {}
    labelled = a["label"] >= 0
    # Detections that both have are right in both, or wrong in both.
    if first.scored and second.scored and labelled.any() and not first.of_detections:
        differences["accuracy"] = paired_proportions(a["correct"][labelled], b["correct"][labelled])
    for name in RATES:
        differences[name] = paired_proportions(a[name][both], b[name][both])
    for name in MEANS:
        known = both & ~np.isnan(a[name]) & ~np.isnan(b[name])
        if known.sum() > 1:
            differences[name] = paired_means(a[name][known], b[name][known])
    for name in VARIANTS:
        if name in a and name in b:  # NaN where an image has no such variant
            drops = (rows["correct"] - rows[name] for rows in (a, b))
            differences[f"drop_{name}"] = paired_means(*drops)
    differing = [name for name in _OPTIONS if getattr(first, name) != getattr(second, name)]
    notes += [f"The {name} differs: {getattr(first, name)}, {getattr(second, name)}." for name in differing]
    return Comparison(first.model, second.model, differences, tuple(notes))


def _matched(first: Results, second: Results) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray], list[str]]:
    """The rows of the images that both have, in the order of the first, and notes."""
    a, b = first.rows, second.rows
    notes = []
    if first.keys != second.keys:
        for results in (first, second):
            if len(set(results.keys)) < len(results):
                raise InputError(f"images of {results.model} share a name, so that they cannot be matched by name")
        positions = {key: i for i, key in enumerate(second.keys)}
        common = [(i, positions[key]) for i, key in enumerate(first.keys) if key in positions]
        if not common:
            raise InputError(
                f"the results have no image in common (of the first {first.model} an image is {first.keys[0]!r}, of "
                f"the second {second.model} {second.keys[0]!r}); give two results of the same images"
            )
        a, b = (
            {name: values[list(which)] for name, values in rows.items()}
            for rows, which in zip((a, b), zip(*common, strict=True), strict=True)
        )
        if len(common) < max(len(first), len(second)):
            notes.append(
                f"{len(common):,} images are compared; {len(first) - len(common):,} are only in the first results, "
                f"{len(second) - len(common):,} only in the second."
            )
    count = len(a["label"])
    labels = int((a["label"] != b["label"]).sum())
    if labels:
        raise InputError(f"the results differ in the label of {labels} of {count} images; give two of the same images")
    areas = int((a["region_area"] != b["region_area"]).sum())
    if areas and (first.dataset, first.split) != (second.dataset, second.split):
        raise InputError(
            f"the results are of {_data(first)} and {_data(second)} and differ in the region of {areas} of {count} "
            "images; give two of the same images"
        )
    if areas:
        notes.append(f"Of {count:,} images, {areas:,} have regions of different area: resized or cropped differently.")
    return a, b, notes


def _data(results: Results) -> str:
    return f"{results.dataset} {results.split}".strip()


def _effect_pairs(rows: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
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
