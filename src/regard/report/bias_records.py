"""Bias results as records, and the tables of the bias page and of the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from regard.bias import VARIANTS, Comparison, Results, Summary, effect_records, effects
from regard.bias.results import SIZES
from regard.bias.summary import RATES, comparable
from regard.columns import Column
from regard.formatting import shortened
from regard.report import captions
from regard.report.glossary import name_of
from regard.report.records import TEST, Note, merged_notes, records_table
from regard.stats import Difference, Estimate, interval_record, proportion

MOST_CLASSES = 40
"""Up to this number, a table has all classes; beyond, the `MOST_BIASED` with at least `LEAST_IMAGES` images."""
MOST_BIASED = 20
LEAST_IMAGES = 10
_MOST_PRINTED = 30  # classes on a terminal
_EXAMPLES = 5  # images without measures, for each reason

MAIN = ("accuracy", "position_bias", "range_bias", "inside", "pointing", "energy_inside", "spill", "auc")
OTHERS = ("miss", "iou", "mean_iou", "best_iou", "rank_accuracy", "top_k", "focus_area", "region_area")
BRIEF = ("accuracy", "position_bias", "range_bias", "energy_inside", "spill")


def columns(measures: Sequence[str]) -> tuple[Column, ...]:
    """One column with intervals per measure."""
    rates = (*RATES, "inside")
    return tuple(Column(name, name_of(name), "percent" if name in rates else "number", name) for name in measures)


NETWORK = Column("network", "network")
IMAGES = Column("images", "images", "count")
OVERVIEW = (NETWORK, IMAGES, Column("compared", "with region and focus", "count"), *columns(MAIN))
PARTS = (NETWORK, Column("part", "subset"), IMAGES, *columns(BRIEF))
CLASSES = (Column("class", "class"), IMAGES, *columns(BRIEF))
LEFT_OUT = (NETWORK, Column("reason", "reason"), IMAGES, Column("examples", "examples"))
INTERVENTIONS = (
    NETWORK,
    Column("intervention", "intervention", write=name_of),
    Column("n", "images", "count"),
    Column("first", "original", "percent", "accuracy"),
    Column("second", "changed", "percent", "accuracy"),
    Column("value", "drop", "points", "drop"),
    *TEST[1:],
)
LOST = (
    NETWORK,
    Column("intervention", "intervention", write=name_of),
    Column("first", "lost with position bias", "percent", "lost"),
    Column("first_n", "images", "count"),
    Column("second", "lost without", "percent", "lost"),
    Column("second_n", "images", "count"),
    Column("value", "difference", "points"),
    *TEST[1:],
)
DROPS = (NETWORK, Column("part", "subset"), *(Column(name, name_of(name), "points", name) for name in VARIANTS))
RATE_DIFFERENCES, MEAN_DIFFERENCES = (
    (
        Column("measure", "measure", write=name_of),
        NETWORK,
        Column("value", "difference", kind),
        *TEST,
    )
    for kind in ("points", "signed")
)


def names(results: Sequence[Results]) -> list[str]:
    """Names of the models: paths without their common folder."""
    return shortened([result.model for result in results])


def with_names(results: Sequence[Results]) -> list[tuple[str, Results]]:
    """Pairs of name and results."""
    return list(zip(names(results), results, strict=True))


def overview(results: Sequence[Results]) -> list[dict[str, Any]]:
    """All measures over all images, one record per model."""
    return [{"network": name, **_measures(result.overall)} for name, result in with_names(results)]


def parts(results: Sequence[Results]) -> list[dict[str, Any]]:
    """All measures, one record per model and part of the images."""
    return [
        {"network": name, "part": part, **_measures(summary)}
        for name, result in with_names(results)
        for part, summary in summaries(result).items()
    ]


def summaries(results: Results) -> dict[str, Summary]:
    """Summaries of all images, by right and wrong prediction, and by size of the region; empty parts are left out."""
    noun = "detection" if results.of_detections else "prediction"
    by_prediction = {f"right {noun}": results.right, f"wrong {noun}": results.wrong} if results.scored else {}
    by_size = {f"{size} region": results.by_size[size] for size in SIZES}
    by_part = {"all": results.overall, **by_prediction, **by_size}
    return {part: summary for part, summary in by_part.items() if summary.images}


def chosen_classes(results: Sequence[Results]) -> list[str]:
    """Classes for a table: all, by number of images, if they are few, else the most biased.

    Classes are ranked by the lower end of the interval of position bias (mean over the models), so that small classes
    do not lead by chance; ties are broken by less energy inside.
    """
    by_class = [result.by_class for result in results]
    images = {name: summary.images for name, summary in by_class[0].items() if summary.images}
    if len(images) <= MOST_CLASSES:
        return sorted(images, key=lambda name: -images[name])

    def bias(name: str) -> tuple[float, float]:
        lows = [summaries[name].position_bias.low for summaries in by_class]
        energies = [summaries[name].means["energy_inside"].value for summaries in by_class]
        return -float(np.mean(lows)), float(np.mean(energies))

    large = [name for name, count in images.items() if count >= LEAST_IMAGES]
    large = [name for name in large if all(summaries[name].position_bias.n for summaries in by_class)]
    return sorted(large, key=bias)[:MOST_BIASED]


def classes(results: Results, names: Sequence[str]) -> list[dict[str, Any]]:
    """All measures of one model, one record per class."""
    return [{"class": name, **_measures(results.by_class[name])} for name in names]


def classes_of_all(results: Sequence[Results], names: Sequence[str], measure: str) -> list[dict[str, Any]]:
    """One measure of several models, one record per class; the position of a model, as text, is its key."""
    return [
        {"class": name, "images": results[0].by_class[name].images}
        | {str(i): _measures(result.by_class[name])[measure] for i, result in enumerate(results)}
        for name in names
    ]


def differences(
    results: Sequence[Results], comparisons: Sequence[Comparison | None]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records of the differences of rates, and of means, ordered by measure."""
    drop_measures = tuple(f"drop_{name}" for name in VARIANTS)
    order = (*MAIN, *drop_measures, *OTHERS)
    records = [record for comparison in comparisons if comparison is not None for record in comparison.to_records()]
    labels = {result.model: name for name, result in with_names(results)}
    for record in records:
        record["network"] = labels[record["model"]]
    records.sort(key=lambda record: order.index(record["measure"]))
    rates = [record for record in records if record["measure"] in (*RATES, *drop_measures)]
    return rates, [record for record in records if record not in rates]


def interventions(
    results: Sequence[Results], differences: Sequence[Mapping[str, Difference]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records of the accuracy on changed images, and of the predictions lost with and without position bias.

    `differences` are the `effects` of `bias.compare_all`, one mapping per result.
    """
    accuracies: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    for (name, result), result_effects in zip(with_names(results), differences, strict=True):
        for record in effect_records(result, result_effects):
            measure = record["measure"]
            keys = {"network": name, "intervention": measure.removeprefix("drop_").removeprefix("lost_")}
            (lost if measure.startswith("lost_") else accuracies).append({**keys, **record})
    return accuracies, lost


def drops(results: Sequence[Results], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Records of the drop after each intervention, by position bias, by size of the region and by class; not tested."""
    records = []
    for name, result in with_names(results):
        rows, counted = result.rows, comparable(result.rows)
        masks = {
            "position bias": counted & rows["position_bias"],
            "no position bias": counted & ~rows["position_bias"],
            **{f"{size} region": mask for size, mask in result.sizes.items()},
            **{label: rows["label"] == i for i, label in enumerate(result.by_class) if label in classes},
        }
        for part, mask in masks.items():
            part_effects = effects(result, mask)
            part_drops = {variant: part_effects[f"drop_{variant}"] for variant in VARIANTS} if part_effects else {}
            part_drops = {variant: drop for variant, drop in part_drops.items() if drop.n}
            if part_drops:
                records.append({"network": name, "part": part, **_interval_records(part_drops)})
    return records


def left_out(results: Sequence[Results]) -> list[dict[str, Any]]:
    """Numbers and examples of images without measures, one record per model and reason."""
    records = []
    for name, result in with_names(results):
        reasons = {
            "constant map": [result.keys[i] for i in np.flatnonzero(result.rows["constant"])],
            "no region": [result.keys[i] for i in np.flatnonzero(result.rows["region_area"] == 0)],
            "not readable": list(result.skipped),
        }
        records += [
            {"network": name, "reason": reason, "images": len(keys), "examples": "; ".join(keys[:_EXAMPLES])}
            for reason, keys in reasons.items()
            if keys
        ]
    return records


def notes(
    results: Sequence[Results], comparisons: Sequence[Comparison | None], not_compared: Sequence[str] = ()
) -> list[Note]:
    """Notes on results and comparisons; `not_compared` are the reasons that `bias.compare_all` returns."""
    labels = names(results)
    notes = [Note(labels[0], reason) for reason in not_compared]
    for label, comparison in zip(labels[1:], comparisons, strict=True):
        notes += [Note(f"{label}, {labels[0]}", note) for note in (comparison.notes if comparison else ())]
    notes += [Note(label, captions.UNSCORED) for label, result in with_names(results) if not result.scored]
    return merged_notes(notes)


def bias_tables(
    results: Sequence[Results],
    comparisons: Sequence[Comparison | None] = (),
    differences_within: Sequence[Mapping[str, Difference]] = (),
) -> Iterator[Table]:
    """Tables for a terminal: one model by part and class, or several models over all images; interventions; and
    differences.
    """
    caption = f"{captions.RATES} {captions.DETECTIONS}" if results[0].of_detections else captions.RATES
    if len(results) == 1:
        yield records_table(parts(results), PARTS[1:], caption=caption)
        chosen = chosen_classes(results)
        if 1 < len(chosen) <= _MOST_PRINTED:
            yield records_table(classes(results[0], chosen), CLASSES)
    else:
        yield records_table(overview(results), (*OVERVIEW[:2], *columns(BRIEF)), caption=caption)
    if differences_within and any(differences_within):
        yield from intervention_tables(*interventions(results, differences_within))
    rates, means = differences(results, comparisons)
    if rates:
        yield records_table(rates, RATE_DIFFERENCES, caption=captions.DIFFERENCES)
        yield records_table(means, MEAN_DIFFERENCES)
    if without := left_out(results):
        yield records_table(without, LEFT_OUT, title="Images without measures")


def intervention_tables(accuracies: Sequence[dict[str, Any]], lost: Sequence[dict[str, Any]]) -> Iterator[Table]:
    """Tables of the records of `interventions`, if there are any."""
    if accuracies:
        yield records_table(accuracies, INTERVENTIONS, title="Interventions", caption=captions.INTERVENTIONS)
        yield records_table(lost, LOST, title="Position bias and interventions", caption=captions.LOST)


def _measures(summary: Summary) -> dict[str, Any]:
    """The number of images, and every measure with its interval; None for NaN."""
    compared = summary.position_bias.n
    biased = round(compared * (summary.position_bias.value + summary.range_bias.value)) if compared else 0
    estimates = {**summary.estimates(), "inside": proportion(compared - biased, compared)}
    return {"images": summary.images, "compared": compared, **_interval_records(estimates)}


def _interval_records(estimates: Mapping[str, Estimate | Difference]) -> dict[str, Any]:
    return {
        key: number for name, estimate in estimates.items() for key, number in interval_record(name, estimate).items()
    }
