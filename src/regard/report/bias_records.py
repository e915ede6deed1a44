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
from regard.report.records import TEST, Note, gathered, records_table
from regard.stats import Difference, Estimate, interval_record, proportion

MOST_CLASSES = 40
"""As many are all in the table of classes; of more, the `MOST_BIASED` with at least `LEAST_IMAGES` images."""
MOST_BIASED = 20
LEAST_IMAGES = 10
_PRINTED = 30  # classes, at most, on a terminal
_EXAMPLES = 5  # images that are left out, for each reason

MAIN = ("accuracy", "position_bias", "range_bias", "inside", "pointing", "energy_inside", "spill", "auc")
OTHERS = ("miss", "iou", "mean_iou", "best_iou", "rank_accuracy", "top_k", "focus_area", "region_area")
BRIEF = ("accuracy", "position_bias", "range_bias", "energy_inside", "spill")


def columns(measures: Sequence[str]) -> tuple[Column, ...]:
    """A column with intervals for each measure."""
    rates = (*RATES, "inside")
    return tuple(Column(name, name_of(name), "percent" if name in rates else "number", name) for name in measures)


NETWORK = Column("network", "network")
IMAGES = Column("images", "images", "count")
OVERVIEW = (NETWORK, IMAGES, Column("compared", "with region and focus", "count"), *columns(MAIN))
PARTS = (NETWORK, Column("part", "images with"), IMAGES, *columns(BRIEF))
CLASSES = (Column("class", "class"), IMAGES, *columns(BRIEF))
LEFT_OUT = (NETWORK, Column("reason", "reason"), IMAGES, Column("examples", "examples"))
INTERVENTIONS = (
    NETWORK,
    Column("intervention", "images changed", write=name_of),
    Column("n", "images", "count"),
    Column("first", "original", "percent", "accuracy"),
    Column("second", "changed", "percent", "accuracy"),
    Column("value", "drop", "points", "drop"),
    *TEST[1:],
)
LOST = (
    NETWORK,
    Column("intervention", "images changed", write=name_of),
    Column("first", "lost with position bias", "percent", "lost"),
    Column("first_n", "images", "count"),
    Column("second", "lost without", "percent", "lost"),
    Column("second_n", "images", "count"),
    Column("value", "difference", "points"),
    *TEST[1:],
)
DROPS = (NETWORK, Column("part", "images with"), *(Column(name, name_of(name), "points", name) for name in VARIANTS))
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
    """Of the models, paths without the folder that all of them lie in."""
    return shortened([one.model for one in results])


def named(results: Sequence[Results]) -> list[tuple[str, Results]]:
    """Each of them behind its name of `names`."""
    return list(zip(names(results), results, strict=True))


def overview(results: Sequence[Results]) -> list[dict[str, Any]]:
    """All measures of all images, for each model."""
    return [{"network": name, **_measures(one.overall)} for name, one in named(results)]


def parts(results: Sequence[Results]) -> list[dict[str, Any]]:
    """All measures of all images, of those predicted right and wrong, and by the size of the region, for each model;
    without those of no image."""
    return [
        {"network": name, "part": part, **_measures(summary)}
        for name, one in named(results)
        for part, summary in summaries(one).items()
    ]


def summaries(results: Results) -> dict[str, Summary]:
    """Part of the images -> its summary."""
    what = "detection" if results.of_detections else "prediction"
    by_prediction = {f"right {what}": results.right, f"wrong {what}": results.wrong} if results.scored else {}
    by_size = {f"{size} region": results.by_size[size] for size in SIZES}
    return {name: one for name, one in {"all": results.overall, **by_prediction, **by_size}.items() if one.images}


def chosen_classes(results: Sequence[Results]) -> list[str]:
    """Classes of the data set for a table: all by number of images if they are few, else the most biased.

    The most biased have the highest lower ends of the interval of position bias, in the mean over the models: so few
    images do not lead by chance alone. Of equal ones, those with less energy inside.
    """
    by_class = [one.by_class for one in results]
    images = {name: summary.images for name, summary in by_class[0].items() if summary.images}
    if len(images) <= MOST_CLASSES:
        return sorted(images, key=lambda name: -images[name])

    def bias(name: str) -> tuple[float, float]:
        lows = [summaries[name].position_bias.low for summaries in by_class]
        return -float(np.mean(lows)), float(np.mean([one[name].means["energy_inside"].value for one in by_class]))

    enough = [name for name, count in images.items() if count >= LEAST_IMAGES]
    enough = [name for name in enough if all(one[name].position_bias.n for one in by_class)]
    return sorted(enough, key=bias)[:MOST_BIASED]


def classes(results: Results, chosen: Sequence[str]) -> list[dict[str, Any]]:
    """The measures of one model for some classes."""
    return [{"class": name, **_measures(results.by_class[name])} for name in chosen]


def classes_of_all(results: Sequence[Results], chosen: Sequence[str], measure: str) -> list[dict[str, Any]]:
    """A measure for some classes, by the position of the model as text."""
    return [
        {"class": name, "images": results[0].by_class[name].images}
        | {str(i): _measures(one.by_class[name])[measure] for i, one in enumerate(results)}
        for name in chosen
    ]


def differences(
    results: Sequence[Results], comparisons: Sequence[Comparison | None]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Differences of rates, and of means, with all models of a measure together."""
    dropping = tuple(f"drop_{name}" for name in VARIANTS)
    order = (*MAIN, *dropping, *OTHERS)
    records = [record for one in comparisons if one is not None for record in one.to_records()]
    labels = {one.model: name for name, one in named(results)}
    for record in records:
        record["network"] = labels[record["model"]]
    records.sort(key=lambda record: order.index(record["measure"]))
    rates = [record for record in records if record["measure"] in (*RATES, *dropping)]
    return rates, [record for record in records if record not in rates]


def interventions(
    results: Sequence[Results], differences: Sequence[Mapping[str, Difference]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Accuracy on changed images, and the right predictions lost with and without position bias, for each model.

    Args:
        results: with interventions or without.
        differences: for each of them the `effects` of `bias.compare_all`.
    """
    accuracies: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    for (name, one), of_model in zip(named(results), differences, strict=True):
        for record in effect_records(one, of_model):
            of_effect = {"network": name, "intervention": record["measure"].removeprefix("drop_").removeprefix("lost_")}
            (lost if record["measure"].startswith("lost_") else accuracies).append({**of_effect, **record})
    return accuracies, lost


def drops(results: Sequence[Results], chosen: Sequence[str]) -> list[dict[str, Any]]:
    """The drops by interventions of parts of the images: by position bias, by size, and of some classes; untested."""
    records = []
    for name, one in named(results):
        rows, counted = one.rows, comparable(one.rows)
        which = {
            "position bias": counted & rows["position_bias"],
            "no position bias": counted & ~rows["position_bias"],
            **{f"{size} region": flags for size, flags in one.sizes.items()},
            **{label: rows["label"] == i for i, label in enumerate(one.by_class) if label in chosen},
        }
        for part, flags in which.items():
            of_part = effects(one, flags)
            of_variants = {variant: of_part[f"drop_{variant}"] for variant in VARIANTS} if of_part else {}
            if known := {variant: one for variant, one in of_variants.items() if one.n}:
                records.append({"network": name, "part": part, **_interval_records(known)})
    return records


def left_out(results: Sequence[Results]) -> list[dict[str, Any]]:
    """For each model and reason: how many images have no part in the measures, and the first of them."""
    records = []
    for name, one in named(results):
        reasons = {
            "constant map": [one.keys[i] for i in np.flatnonzero(one.rows["constant"])],
            "no region": [one.keys[i] for i in np.flatnonzero(one.rows["region_area"] == 0)],
            "not readable": list(one.skipped),
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
    """Notes on the results and on their comparisons, each once; `not_compared`: those of `bias.compare_all`."""
    labels = names(results)
    every = [Note(labels[0], note) for note in not_compared]
    for label, one in zip(labels[1:], comparisons, strict=True):
        every += [Note(f"{label}, {labels[0]}", note) for note in (one.notes if one else ())]
    every += [Note(label, captions.UNSCORED) for label, one in named(results) if not one.scored]
    return gathered(every)


def bias_tables(
    results: Sequence[Results],
    comparisons: Sequence[Comparison | None] = (),
    differences_within: Sequence[Mapping[str, Difference]] = (),
) -> Iterator[Table]:
    """Results of bias: of one model by part and by class, of several all images, interventions, and the differences."""
    caption = f"{captions.RATES} {captions.DETECTIONS}" if results[0].of_detections else captions.RATES
    if len(results) == 1:
        yield records_table(parts(results), PARTS[1:], caption=caption)
        chosen = chosen_classes(results)
        if 1 < len(chosen) <= _PRINTED:
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
    """The records of `interventions` as tables; none where there are none."""
    if accuracies:
        yield records_table(accuracies, INTERVENTIONS, title="Interventions", caption=captions.INTERVENTIONS)
        yield records_table(lost, LOST, title="Position bias and interventions", caption=captions.LOST)


def _measures(summary: Summary) -> dict[str, Any]:
    """Images, and every measure with the ends of its interval; None for NaN."""
    compared = summary.position_bias.n
    biased = round(compared * (summary.position_bias.value + summary.range_bias.value)) if compared else 0
    estimates = {**summary.estimates(), "inside": proportion(compared - biased, compared)}
    return {"images": summary.images, "compared": compared, **_interval_records(estimates)}


def _interval_records(estimates: Mapping[str, Estimate | Difference]) -> dict[str, Any]:
    return {key: number for name, one in estimates.items() for key, number in interval_record(name, one).items()}
