"""Differences between models on the same images, and effects of interventions within one model."""

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
        reference: name of the second model.
        differences: name of measure -> the first minus the second. `accuracy` is over the images with a label, if both
            results are scored; `drop_VARIANT`, the loss of accuracy by an intervention, over the images that have the
            variant, if both results have interventions. All others are over the images with a region and, in both
            results, a focus; means leave out images where the measure is NaN. Measures with fewer than two images are
            left out.
        notes: images that only one of the results has, and options that differ.
    """

    model: str
    reference: str
    differences: dict[str, Difference]
    notes: tuple[str, ...] = ()

    def plot(self, measures: Sequence[str] = ()) -> Figure:
        """A matplotlib figure of the differences with these keys (empty: all) and their 95% intervals.

        Raises:
            InputError: an unknown measure.
        """
        for name in measures:
            if name not in self.differences:
                raise unknown("measure", name, self.differences)
        rows = {name.replace("_", " "): self.differences[name] for name in measures or self.differences}
        return figures.intervals(rows, xlabel=f"{self.model} minus {self.reference}", level=0)

    def to_records(self) -> list[dict[str, Any]]:
        """A dict per measure, JSON-ready: `model`, `reference`, `measure`, the fields of `Difference`, and
        `significant` (None without a test)."""
        return [
            {"model": self.model, "reference": self.reference, "measure": measure, **difference.to_record()}
            for measure, difference in self.differences.items()
        ]


def compare(results: Results, reference: Results) -> Comparison:
    """Differences between two evaluations of the same images, the first minus the second.

    Rates are compared by McNemar's exact test with Newcombe's interval, means by the paired t test; all differences are
    corrected together (Holm). They generalise to other images of this kind, not to other training runs.

    Images are matched by their keys; images that only one of the results has are left out and counted in the notes.

    Raises:
        InputError: the results have no image in common; they have different labels or, for data sets of different
            names, different regions for the same images; or no image has a focus in both.
    """
    comparison = _compare(results, reference)
    return replace(comparison, differences=holm(comparison.differences))


def compare_all(
    results: Sequence[Results],
) -> tuple[list[Comparison | None], list[dict[str, Difference]], list[str]]:
    """Compares all results with the first, and computes the effects of interventions in each.

    All of these differences are corrected together (Holm).

    Returns:
        A comparison for each of the results but the first, None if they cannot be compared; for all results the
        `effects` of interventions, empty without any; and for each None a note with the reason.
    """
    comparisons: list[Comparison | None] = []
    notes = []
    for other in results[1:]:
        try:
            comparisons.append(_compare(other, results[0]))
        except InputError as error:
            comparisons.append(None)
            notes.append(f"{other.model} is not compared with {results[0].model}: {error}.")
    families = [c.differences if c else {} for c in comparisons] + [effects(model_results) for model_results in results]
    corrected = holm({(i, name): d for i, family in enumerate(families) for name, d in family.items()})
    families = [{name: corrected[i, name] for name in family} for i, family in enumerate(families)]
    return (
        [c and replace(c, differences=family) for c, family in zip(comparisons, families, strict=False)],
        families[len(comparisons) :],
        notes,
    )


def effects(results: Results, which: np.ndarray | None = None) -> dict[str, Difference]:
    """The effects of interventions on the accuracy of one model, uncorrected.

    `compare_all` corrects them together with all other differences.

    Args:
        results: results with interventions; results without have no effects.
        which: bool (N,), a selection of images; None: all.

    Returns:
        `drop_VARIANT`: accuracy on the original minus on the variant, for images that have the variant (McNemar).
        `background_gap`: accuracy on Mixed-Same minus on `mixed_other`, for images that have both (BG-Gap of Xiao et
        al.). `lost_VARIANT`: the share of correctly predicted images that the variant makes wrong, for images with
        position bias minus for images without (Fisher's exact test).
    """
    rows = results.rows if which is None else {name: values[which] for name, values in results.rows.items()}
    return {
        measure: independent_proportions(int(first.sum()), len(first), int(second.sum()), len(second))
        if measure.startswith("lost_")
        else paired_proportions(first, second)
        for measure, (first, second) in _effect_pairs(rows).items()
    }


def effect_records(results: Results, differences: Mapping[str, Difference]) -> list[dict[str, Any]]:
    """The effects of interventions as dicts, JSON-ready.

    Args:
        results: results of one model.
        differences: its `effects`, corrected or not.

    Returns:
        Dicts with `model`, `measure`, the fields of `Difference`, `significant` (None without a test), and the two
        rates with their intervals: `first` and `second` (`first_low`, …, `first_n`).
    """
    pairs = _effect_pairs(results.rows)
    records = []
    for measure, difference in differences.items():
        record: dict[str, Any] = {"model": results.model, "measure": measure, **difference.to_record()}
        for side, flags in zip(("first", "second"), pairs[measure], strict=True):
            estimate = rate(flags)
            record |= {**interval_record(side, estimate), f"{side}_n": estimate.n}
        records.append(record)
    return records


def _compare(first: Results, second: Results) -> Comparison:
    """The comparison, uncorrected."""
    a, b, notes = _match(first, second)
    both = comparable(a) & comparable(b)
    if not both.any():
        raise InputError(f"none of {len(both)} images has a region and a focus in both results; nothing to compare")
    differences = {}
    labelled = a["label"] >= 0
    # Detections with the same key are right in both results, or wrong in both.
    if first.scored and second.scored and labelled.any() and not first.of_detections:
        differences["accuracy"] = paired_proportions(a["correct"][labelled], b["correct"][labelled])
    for name in RATES:
        differences[name] = paired_proportions(a[name][both], b[name][both])
    for name in MEANS:
        counted = both & ~np.isnan(a[name]) & ~np.isnan(b[name])
        if counted.sum() > 1:
            differences[name] = paired_means(a[name][counted], b[name][counted])
    for name in VARIANTS:
        if name in a and name in b:  # NaN for images without the variant
            drops = (rows["correct"] - rows[name] for rows in (a, b))
            differences[f"drop_{name}"] = paired_means(*drops)
    differing = [name for name in _OPTIONS if getattr(first, name) != getattr(second, name)]
    notes += [f"The {name} differs: {getattr(first, name)}, {getattr(second, name)}." for name in differing]
    return Comparison(first.model, second.model, differences, tuple(notes))


def _match(first: Results, second: Results) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray], list[str]]:
    """The rows of both results for their common images, in the order of the first, and notes."""
    a, b = first.rows, second.rows
    notes = []
    if first.keys != second.keys:
        for results in (first, second):
            if len(set(results.keys)) < len(results):
                raise InputError(f"images of {results.model} share a name, so they cannot be matched by name")
        positions = {key: i for i, key in enumerate(second.keys)}
        common = [(i, positions[key]) for i, key in enumerate(first.keys) if key in positions]
        if not common:
            raise InputError(
                f"the results have no image in common (the first {first.model} has for example {first.keys[0]!r}, the "
                f"second {second.model} has {second.keys[0]!r}); give two results of the same images"
            )
        a, b = (
            {name: values[list(indices)] for name, values in rows.items()}
            for rows, indices in zip((a, b), zip(*common, strict=True), strict=True)
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
    """Effect -> the two bool vectors it compares: of the same images, except for `lost_VARIANT`."""
    if VARIANTS[0] not in rows:
        return {}
    has_variant = {name: ~np.isnan(rows[name]) for name in VARIANTS}
    right = {name: rows[name] == 1 for name in VARIANTS}
    pairs = {f"drop_{name}": (rows["correct"][mask], right[name][mask]) for name, mask in has_variant.items()}
    both = has_variant["mixed_same"] & has_variant["mixed_other"]
    pairs["background_gap"] = right["mixed_same"][both], right["mixed_other"][both]
    biased = rows["position_bias"]
    for name in VARIANTS:
        counted = comparable(rows) & rows["correct"] & has_variant[name]
        pairs[f"lost_{name}"] = ~right[name][counted & biased], ~right[name][counted & ~biased]
    return pairs
