"""Two evaluations on the same images, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from regard.bias.intervals import MeanDifference, PairedDifference, holm, paired_bootstraps, paired_difference
from regard.bias.report import Report
from regard.bias.summary import comparable, without_nan
from regard.errors import InputError

# Measures whose means are compared, and what they are called in a sentence.
MEASURES = {
    "spill": "spill",
    "miss": "miss",
    "iou": "IoU",
    "mean_iou": "mean IoU",
    "energy_inside": "energy inside",
    "auc": "AUC",
    "rank_accuracy": "rank accuracy",
}
_RATES = {"position_bias": "position bias", "range_bias": "range bias", "pointing": "pointing"}
_SETTINGS = ("dataset", "split", "method", "layer", "target", "threshold", "margin", "tolerance")

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference(PairedDifference):
    """The difference of a rate between two reports, the first minus the second, and what may be said of it.

    Attributes:
        sentence: says "higher" or "lower" only if the interval leaves 0 out.
        p_holm: p after Holm's correction for all differences of the comparison.
    """

    sentence: str
    p_holm: float


@dataclass(frozen=True)
class ComparedMean(MeanDifference):
    """The difference of a measure's mean between two reports, the first minus the second, and what may be said of it.

    Attributes:
        sentence: says "higher" or "lower" only if the interval leaves 0 out.
        p_holm: p after Holm's correction for all differences of the comparison.
    """

    sentence: str
    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """What `compare` says of two reports; iterates over its differences.

    Attributes:
        accuracy: over the images with a label; None unless both reports are scored and there are any.
        position_bias: over the images with a region and, in both reports, a focus.
        range_bias: likewise.
        pointing: likewise.
        means: name of measure -> difference of its means, over the images where it is a number in both; measures with
            fewer than two such images are left out.
        notes: how many of so many differences chance alone would resolve; images that only one report has; settings in
            which the two differ, which may explain more than the models do.
    """

    accuracy: Difference | None
    position_bias: Difference
    range_bias: Difference
    pointing: Difference
    means: dict[str, ComparedMean]
    notes: tuple[str, ...]

    def __iter__(self) -> Iterator[Difference | ComparedMean]:
        if self.accuracy is not None:
            yield self.accuracy
        yield from (self.position_bias, self.range_bias, self.pointing)
        yield from self.means.values()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; what is no number is None."""
        return without_nan({**asdict(self), "notes": list(self.notes)})

    def __str__(self) -> str:
        return "\n".join([*(difference.sentence for difference in self), *self.notes])


def compare(first: Report, second: Report) -> Comparison:
    """How two evaluations of the same images differ: the first minus the second, image by image.

    Rates have the intervals (95%, Newcombe 1998) and tests (McNemar, exact) of `paired_difference`, means those of
    `paired_bootstrap` (95%). They say what other images might give; not what another training run might.

    Every difference is judged alone, so where nothing differs, chance resolves k / 20 of k differences: 0.55 of the
    eleven of two scored reports. `p_holm` allows for the k of this comparison, not for further comparisons.

    Images are matched by their keys; those that only one report has are left out, and counted in the notes.

    Raises:
        InputError: the reports have no image in common, or give the same images different labels, or, under different
            names of the data, different regions; or no image has a focus in both.
    """
    names = _names(first, second)
    a, b, notes = _matched(first, second, names)
    both = comparable(a) & comparable(b)
    if not both.any():
        raise InputError(f"none of {len(both)} images has a region and a focus in both reports; nothing to compare")
    found: dict[str, Difference | ComparedMean] = {}
    if first.scored and second.scored:
        labelled = a["label"] >= 0
        if labelled.any():
            found["accuracy"] = _rate("accuracy", names, a["correct"][labelled], b["correct"][labelled])
    for name, words in _RATES.items():
        found[name] = _rate(words, names, a[name][both], b[name][both])
    means = paired_bootstraps({name: (a[name][both], b[name][both]) for name in MEASURES})
    for name, words in MEASURES.items():
        if means[name].images > 1:
            found[name] = _mean(words, names, means[name])
    corrected = holm([difference.p for difference in found.values()])
    found = {name: replace(one, p_holm=p) for (name, one), p in zip(found.items(), corrected, strict=True)}
    differ = [name for name in _SETTINGS if getattr(first, name) != getattr(second, name)]
    rates = {name: one for name, one in found.items() if isinstance(one, Difference)}
    return Comparison(
        accuracy=rates.get("accuracy"),
        position_bias=rates["position_bias"],
        range_bias=rates["range_bias"],
        pointing=rates["pointing"],
        means={name: one for name, one in found.items() if isinstance(one, ComparedMean)},
        notes=(
            *notes,
            *(f"The {name} differs: {getattr(first, name)}, {getattr(second, name)}." for name in differ),
            _by_chance(list(found.values())),
        ),
    )


def _matched(first: Report, second: Report, names: tuple[str, str]) -> tuple[Columns, Columns, list[str]]:
    """The rows of the images that both have, in the order of the first, and what there is to note."""
    a, b = first.rows, second.rows
    notes = []
    if first.keys != second.keys:
        places = [_places(report, name) for report, name in zip((first, second), names, strict=True)]
        common = [key for key in first.keys if key in places[1]]
        if not common:
            raise InputError(
                f"the reports have no image in common (of {names[0]} the first is {first.keys[0]!r}, of {names[1]} "
                f"{second.keys[0]!r}); give two reports of the same images"
            )
        a, b = (
            {column: values[[place[key] for key in common]] for column, values in rows.items()}
            for rows, place in zip((a, b), places, strict=True)
        )
        if len(common) < max(len(first), len(second)):
            notes.append(
                f"On the {len(common):,} images of both reports; left out: {len(first) - len(common):,} of {names[0]} "
                f"alone, {len(second) - len(common):,} of {names[1]} alone."
            )
    count = len(a["label"])
    labels = int((a["label"] != b["label"]).sum())
    if labels:
        raise InputError(f"the reports differ in the label of {labels} of {count} images; give two of the same images")
    areas = int((a["region_area"] != b["region_area"]).sum())
    if areas and (first.dataset, first.split) != (second.dataset, second.split):
        raise InputError(
            f"the reports are of {_data(first)} and {_data(second)} and differ in the region of {areas} of {count} "
            "images; give two of the same images"
        )
    if areas:
        notes.append(
            f"The region takes another share of {areas:,} of {count:,} images: they were resized or cropped otherwise."
        )
    return a, b, notes


def _places(report: Report, name: str) -> dict[str, int]:
    places = {key: place for place, key in enumerate(report.keys)}
    if len(places) < len(report):
        twice = len(report) - len(places)
        raise InputError(f"{twice} images of {name} have the name of another, so images cannot be matched by name")
    return places


def _data(report: Report) -> str:
    return f"{report.dataset} {report.split}".strip()


def _names(first: Report, second: Report) -> tuple[str, str]:
    same = first.model == second.model
    return (f"the first {first.model}", f"the second {second.model}") if same else (first.model, second.model)


def _rate(what: str, names: tuple[str, str], a: np.ndarray, b: np.ndarray) -> Difference:
    paired = paired_difference(a, b)
    size = f"{abs(100 * paired.difference):.1f} points"
    interval = f"{100 * paired.low:+.1f} to {100 * paired.high:+.1f}"
    sentence = _sentence(what, names, paired, size, interval, "McNemar")
    return Difference(**asdict(paired), sentence=sentence, p_holm=paired.p)


def _mean(what: str, names: tuple[str, str], paired: MeanDifference) -> ComparedMean:
    interval = f"{paired.low:+.3f} to {paired.high:+.3f}"
    sentence = _sentence(what, names, paired, f"{abs(paired.difference):.3f}", interval, "bootstrap")
    return ComparedMean(**asdict(paired), sentence=sentence, p_holm=paired.p)


def _sentence(
    what: str, names: tuple[str, str], paired: PairedDifference | MeanDifference, size: str, interval: str, test: str
) -> str:
    first, second = names
    p = "< 0.001" if paired.p < 0.001 else f"{paired.p:.3f}"
    facts = f"95% interval {interval}, {test} p {p}, {paired.images:,} images"
    if paired.resolved:
        return f"{what}: {first} {'higher' if paired.low > 0 else 'lower'} than {second} by {size} ({facts})"
    return f"{what}: {first} and {second} differ by {size}, inside the interval: not resolved ({facts})"


def _by_chance(found: list[Difference | ComparedMean]) -> str:
    resolved = [difference for difference in found if difference.resolved]
    left = sum(difference.p_holm < 0.05 for difference in resolved)
    said = f"Where nothing differs, chance alone resolves {len(found) / 20:.2g} of {len(found)} differences"
    if not resolved:
        return f"{said}; here none is."
    return f"{said}; here {len(resolved)} {'is' if len(resolved) == 1 else 'are'}, {left} after Holm's correction."
