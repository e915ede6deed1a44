"""The page of bias results: rates and means with intervals, differences, figures, and images with CAMs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from regard import bias, figures
from regard.bias import Results
from regard.bias.results import threshold_figure
from regard.bias.rows import CURVES
from regard.bias.summary import RATES, comparable
from regard.columns import Column
from regard.errors import InputError
from regard.report import bias_records
from regard.report.gallery import ChangedImage, Gallery
from regard.report.glossary import name_of
from regard.report.provenance import merged_facts
from regard.report.records import Note
from regard.report.template import Repeat, write_page
from regard.training.run import environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SETTINGS = ("dataset", "split", "method", "layer", "target", "threshold", "margin", "tolerance")

Charts: TypeAlias = "list[tuple[str, Figure]]"


def write_bias_html(
    results: Sequence[Results],
    path: str | Path,
    *,
    title: str,
    gallery: Gallery | None = None,
    changed: Sequence[ChangedImage] = (),
    notes: Sequence[Note] = (),
    command: str = "",
) -> Path:
    """Writes bias results as one self-contained HTML file without script or request, and returns its path.

    The file is written to a temporary path that is then renamed. It suits light and dark screens, and paper.

    Args:
        results: results of models on the same images; each is compared with the first, see `bias.compare_all`.
        path: the file; its folder is created if needed.
        title: title of the page.
        gallery: images with one cell per result.
        changed: images with their interventions.
        notes: further notes.
        command: command that reproduces the results; empty: none is shown.

    Raises:
        InputError: no results, results of different images, a path that cannot be written.
    """
    check_same_images(results)
    comparisons, effects, not_compared = bias.compare_all(results)
    rates, means = bias_records.differences(results, comparisons)
    chosen = bias_records.chosen_classes(results)
    accuracies, lost = bias_records.interventions(results, effects)
    return write_page(
        "bias.html",
        path,
        title=title,
        columns=bias_records,
        of_detections=results[0].of_detections,
        styles={name: i for i, name in enumerate(bias_records.names(results))},
        settings=merged_facts({name: _settings(result) for name, result in bias_records.with_names(results)}),
        notes=[*notes, *bias_records.notes(results, comparisons, not_compared)],
        overview=bias_records.overview(results),
        others=[bias_records.NETWORK, *bias_records.columns(bias_records.OTHERS)],
        rate_differences=rates,
        mean_differences=[record for record in means if record["measure"] in bias_records.MAIN],
        further_differences=[record for record in means if record["measure"] not in bias_records.MAIN],
        interventions=accuracies,
        lost=lost,
        drops=bias_records.drops(results, chosen) if lost else [],
        variants=variant_charts(results),
        changed=changed,
        intervals=intervals(results),
        distributions=distributions(results),
        curves=curves(results),
        parts=bias_records.parts(results),
        classes=_class_tables(results, chosen),
        classes_left_out=sum(bool(summary.images) for summary in results[0].by_class.values()) - len(chosen),
        gallery=gallery,
        left_out=bias_records.left_out(results),
        repeats=[Repeat(title, command)] if command else [],
        provenance=merged_facts({name: _facts(result.provenance) for name, result in bias_records.with_names(results)}),
        environment=merged_facts({"": _facts(environment(()))}),
    )


def check_same_images(results: Sequence[Results]) -> None:
    """Raises InputError if there are no results, or results of different images; detections may differ by detector."""
    if not results:
        raise InputError("no bias results given; give at least one")
    first = results[0]
    for result in results[1:]:
        detections = result.of_detections and first.of_detections and result.dataset == first.dataset
        if result.keys != first.keys and not detections:
            raise InputError(
                f"the results of {first.model} ({len(first):,} images) and {result.model} ({len(result):,}) are "
                "not of the same images; measure them together"
            )


def intervals(results: Sequence[Results]) -> Charts:
    """Rates and means with intervals, by model; of a single model, by part of the images."""
    if len(results) == 1:
        summaries = bias_records.summaries(results[0])
        measures: tuple[str, ...] = ("position_bias", "range_bias", "energy_inside")
    else:
        summaries = {name: result.overall for name, result in bias_records.with_names(results)}
        measures = (*RATES, "energy_inside", "spill")
    styles = dict.fromkeys(summaries, 0) if len(results) == 1 else None
    charts = []
    for measure in measures:
        estimates = {name: summary.estimates()[measure] for name, summary in summaries.items()}
        estimates = {name: estimate for name, estimate in estimates.items() if estimate.n}
        if estimates:
            chart = figures.intervals(estimates, percent=measure in RATES, limits=(0, 1), styles=styles)
            charts.append((name_of(measure), chart))
    return charts


def variant_charts(results: Sequence[Results]) -> Charts:
    """Accuracy on the original images and after each intervention, one figure per model with interventions."""
    charts = []
    for style, (name, result) in enumerate(bias_records.with_names(results)):
        if result.overall.interventions:
            rows = {"original": result.accuracy}
            rows |= {name_of(key): rate for key, rate in result.overall.interventions.items() if rate.n}
            styles = dict.fromkeys(rows, style)
            charts.append((name, figures.intervals(rows, percent=True, limits=(0, 1), styles=styles)))
    return charts


def distributions(results: Sequence[Results]) -> Charts:
    """Distributions of energy inside, spill and AUC over the images; dotted: the mean for constant maps."""
    charts = []
    for measure in ("energy_inside", "spill", "auc"):
        values: dict[str, Sequence[float]] = {}
        levels = {}
        for name, result in bias_records.with_names(results):
            counted = comparable(result.rows)
            values[name] = result.rows[measure][counted]
            area = float(result.rows["region_area"][counted].mean()) if counted.any() else np.nan
            levels[name] = {"energy_inside": area, "spill": 1 - area, "auc": 0.5}[measure]
        if any(np.isfinite(numbers).any() for numbers in values.values()):
            charts.append((name_of(measure), figures.histograms(values, levels=levels)))
    return charts


def curves(results: Sequence[Results]) -> Charts:
    """Both biases by the threshold of the focus, with 95% intervals as bands, for the results with curves."""
    with_curves = {name: result for name, result in bias_records.with_names(results) if CURVES[0] in result.rows}
    charts = []
    for measure in ("position_bias", "range_bias") if with_curves else ():
        rates = {name: result.curves[measure] for name, result in with_curves.items()}
        charts.append((name_of(measure), threshold_figure(rates, legend=len(results) > 1)))
    return charts


def _class_tables(
    results: Sequence[Results], chosen: Sequence[str]
) -> list[tuple[str, list[Column], list[dict[str, Any]]]]:
    """(heading, columns, records) of each table of classes: one table for a single model, else one per measure."""
    if len(chosen) < 2:
        return []
    if len(results) == 1:
        return [("", list(bias_records.CLASSES), bias_records.classes(results[0], chosen))]
    tables = []
    for column in bias_records.columns(("position_bias", "range_bias", "energy_inside", "accuracy")):
        records = bias_records.classes_of_all(results, chosen, column.key)
        models = [Column(str(i), name, column.kind) for i, name in enumerate(bias_records.names(results))]
        tables.append((column.label, [*bias_records.CLASSES[:2], *models], records))
    return tables


def _settings(results: Results) -> dict[str, Any]:
    settings = {name: getattr(results, name) for name in _SETTINGS}
    if not results.of_detections:
        return settings | {"images": len(results)}
    settings |= {name: results.provenance.get(name) for name in ("region", "score_threshold")}
    return settings | {"detections": len(results)}


def _facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in ("classes", "command", "options")}
