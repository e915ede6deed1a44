"""Networks with the same test images: their comparisons with a reference, and their figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from regard import bias, figures, stats
from regard.errors import InputError
from regard.report import bias_records
from regard.report.collect import RunResult
from regard.report.glossary import name_of
from regard.report.records import Note
from regard.report.seeds import SeedGroup
from regard.stats import Difference, Estimate, interval_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CURVES = {
    "Test accuracy": "test_accuracy",
    "AP of boxes on test images": "test_box_ap",
    "AP of masks on test images": "test_mask_ap",
    "Training loss (cross entropy with the labels)": "task",
    "Attention loss, without its weight beta": "attention",
}
COMPARED = ("accuracy", "box_ap", "mask_ap", "position_bias", "range_bias")
"""Measures with a comparison and a figure."""


@dataclass(frozen=True)
class Comparison:
    """One network minus the reference in one measure.

    Attributes:
        network: name of the network.
        reference: name of the reference.
        measure: one of `COMPARED`.
        over: what was paired: "seeds", or the test "images" of the first seed.
        difference: in [-1, 1].
    """

    network: str
    reference: str
    measure: str
    over: Literal["seeds", "images"]
    difference: Difference

    def to_record(self) -> dict[str, Any]:
        """A flat dict, JSON-ready; None for NaN, and for significance without a test."""
        difference = self.difference
        return {
            "network": self.network,
            "reference": self.reference,
            "measure": self.measure,
            "over": self.over,
            "n": difference.n,
            **interval_record("difference", difference),
            "p": difference.p,
            "p_adjusted": difference.p_adjusted,
            "significant": None if difference.p is None else difference.significant,
        }


@dataclass(frozen=True, eq=False)
class Part:
    """The part of a report for one test set.

    Attributes:
        heading: the test set.
        groups: the networks.
        reference: the network that is subtracted from the others.
        comparisons: corrected together with all comparisons of the report.
        effects: name of a run -> effects of interventions, see `bias.effects`; corrected likewise.
        notes: what is missing or cannot be compared.
    """

    heading: str
    groups: tuple[SeedGroup, ...]
    reference: SeedGroup
    comparisons: tuple[Comparison, ...]
    effects: Mapping[str, Mapping[str, Difference]]
    notes: tuple[Note, ...]

    @property
    def runs(self) -> list[RunResult]:
        """The counted runs of all networks."""
        return [run for group in self.groups for run in group.runs]

    def interventions(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Records of all runs with interventions: accuracies on changed images, and lost right predictions."""
        results = [run.bias for run in self.runs if run.bias is not None and run.name in self.effects]
        return bias_records.interventions(results, [self.effects[result.model] for result in results])

    @property
    def differences(self) -> list[Difference]:
        """The differences of the comparisons, then of the effects."""
        effects = [effect for run_effects in self.effects.values() for effect in run_effects.values()]
        return [*(comparison.difference for comparison in self.comparisons), *effects]

    def with_differences(self, differences: Iterator[Difference]) -> Part:
        """A copy with new `differences`, in the same order."""
        return replace(
            self,
            comparisons=tuple(replace(comparison, difference=next(differences)) for comparison in self.comparisons),
            effects={
                run: {name: next(differences) for name in run_effects} for run, run_effects in self.effects.items()
            },
        )

    @property
    def styles(self) -> dict[str, int]:
        """The style number of each network, see `figures`; the reference has 0."""
        numbers = iter(range(1, len(self.groups)))
        return {group.name: 0 if group is self.reference else next(numbers) for group in self.groups}

    def figures(self) -> dict[str, Figure]:
        """Figures by title: accuracy by cost, measures with intervals, training curves."""
        return {**self.costs(), **self.intervals(), **self.curves()}

    def costs(self) -> dict[str, Figure]:
        """Test accuracy by multiply-adds, if at least two finished networks have both."""
        groups = [
            group
            for group in self.groups
            if group.finished and group.multiply_adds and group.parameters and group.values("accuracy")
        ]
        if len(groups) < 2:
            return {}
        accuracies = {group.name: list(group.values("accuracy").values()) for group in groups}
        figure = figures.scatter(
            {group.name: group.multiply_adds or 0 for group in groups},
            {
                name: Estimate(math.fsum(values) / len(values), min(values), max(values), len(values))
                for name, values in accuracies.items()
            },
            xlabel="multiply-adds",
            percent=True,
            areas={group.name: group.parameters or 0 for group in groups},
            styles=self.styles,
        )
        return {"Test accuracy by multiply-adds": figure}

    def intervals(self) -> dict[str, Figure]:
        """Each of `COMPARED` with intervals, and a mark per seed for networks with several."""
        charts = {}
        for measure in COMPARED:
            rows = {group.name: estimate for group in self.groups if (estimate := group.estimate(measure)) is not None}
            points = {group.name: list(group.values(measure).values()) for group in self.groups if len(group.runs) > 1}
            if rows:
                charts[f"{name_of(measure).capitalize()} with 95% intervals"] = figures.intervals(
                    rows, percent=True, points=points, limits=(0, 1), styles=self.styles
                )
        return charts

    def curves(self) -> dict[str, Figure]:
        """Test accuracy and losses by epoch, each if any network has it."""
        charts = {}
        for title, column in _CURVES.items():
            lines = {group.name: [_curve(run, column) for run in group.runs] for group in self.groups}
            if column == "attention":  # always 0 for networks that are not trained with it
                lines = {name: runs for name, runs in lines.items() if any(any(run.values()) for run in runs)}
            lines = {name: runs for name, runs in lines.items() if any(runs)}
            if lines:
                charts[title] = figures.curves(
                    lines, xlabel="epoch", percent=column.startswith("test_"), styles=self.styles, legend=False
                )
        return charts


def compare(groups: Sequence[SeedGroup], reference: SeedGroup) -> tuple[list[Comparison], list[Note]]:
    """The uncorrected comparisons of every network with the reference, in every measure that both have, and notes on
    networks that cannot be compared and on different options.
    """
    comparisons: list[Comparison] = []
    notes = []
    for group in groups:
        if group is reference:
            continue
        if by_seed := _over_seeds(group, reference):
            comparisons += by_seed
            continue
        about = f"{group.name}, {reference.name}"
        results, reference_results = group.first.bias, reference.first.bias
        if results is None or reference_results is None:
            missing = [network.name for network in (group, reference) if network.first.bias is None]
            notes += [
                Note(about, f"not compared: no two finished seeds in common, and no bias.json of {name}")
                for name in missing
            ]
            continue
        try:
            comparison = bias.compare(results, reference_results)
        except InputError as error:
            notes.append(Note(about, f"not compared: {error}"))
            continue
        comparisons += [
            Comparison(group.name, reference.name, measure, "images", comparison.differences[measure])
            for measure in COMPARED
            if measure in comparison.differences
        ]
        notes += [Note(about, note) for note in comparison.notes]
    return comparisons, notes


def _over_seeds(group: SeedGroup, reference: SeedGroup) -> list[Comparison]:
    """Compares two finished networks in every measure for which they share at least two seeds."""
    comparisons = []
    for measure in COMPARED if group.finished and reference.finished else ():
        values, reference_values = group.values(measure), reference.values(measure)
        seeds = sorted(values.keys() & reference_values.keys())
        if len(seeds) > 1:
            difference = stats.over_seeds([values[seed] for seed in seeds], [reference_values[seed] for seed in seeds])
            comparisons.append(Comparison(group.name, reference.name, measure, "seeds", difference))
    return comparisons


def _curve(run: RunResult, column: str) -> dict[float, float]:
    """Epoch -> finite value."""
    values = {row["epoch"]: row.get(column) for row in run.metrics}
    return {epoch: v for epoch, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
