"""Networks that were tested on the same images: their comparisons with a reference, and their figures."""

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
    "Attention loss, before its weight beta": "attention",
}
COMPARED = ("accuracy", "box_ap", "mask_ap", "position_bias", "range_bias")
"""Measures with a comparison and a figure."""


@dataclass(frozen=True)
class Comparison:
    """One network minus the reference in one measure.

    Attributes:
        network: its name.
        reference: its name.
        measure: one of `COMPARED`.
        over: what the difference is over: "seeds", or the test "images" of the first seed.
        difference: in [-1, 1].
    """

    network: str
    reference: str
    measure: str
    over: Literal["seeds", "images"]
    difference: Difference

    def to_record(self) -> dict[str, Any]:
        """A flat dict, JSON-ready; None for NaN, and for significance without a test."""
        one = self.difference
        return {
            "network": self.network,
            "reference": self.reference,
            "measure": self.measure,
            "over": self.over,
            "n": one.n,
            **interval_record("difference", one),
            "p": one.p,
            "p_adjusted": one.p_adjusted,
            "significant": None if one.p is None else one.significant,
        }


@dataclass(frozen=True, eq=False)
class Part:
    """Networks that were tested on the same images.

    Attributes:
        heading: the test set.
        groups: the networks.
        reference: the one that the others are compared with.
        comparisons: corrected together with all others of the report.
        effects: name of a run that was measured with interventions -> what they change, see `bias.effects`; corrected
            likewise.
        notes: on what cannot be compared, or is missing.
    """

    heading: str
    groups: tuple[SeedGroup, ...]
    reference: SeedGroup
    comparisons: tuple[Comparison, ...]
    effects: Mapping[str, Mapping[str, Difference]]
    notes: tuple[Note, ...]

    @property
    def runs(self) -> list[RunResult]:
        """Those that count."""
        return [run for group in self.groups for run in group.runs]

    def interventions(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Records of each run with interventions: accuracies on changed images, and right predictions that are lost."""
        results = [run.bias for run in self.runs if run.bias is not None and run.name in self.effects]
        return bias_records.interventions(results, [self.effects[one.model] for one in results])

    @property
    def differences(self) -> list[Difference]:
        """Those of the comparisons, then those of the effects."""
        effects = [one for of_run in self.effects.values() for one in of_run.values()]
        return [*(comparison.difference for comparison in self.comparisons), *effects]

    def with_differences(self, differences: Iterator[Difference]) -> Part:
        """The part with other `differences`, in their order."""
        return replace(
            self,
            comparisons=tuple(replace(one, difference=next(differences)) for one in self.comparisons),
            effects={run: {name: next(differences) for name in of_run} for run, of_run in self.effects.items()},
        )

    @property
    def styles(self) -> dict[str, int]:
        """Number of the style of each network, see `figures`: the reference has the first."""
        others = iter(range(1, len(self.groups)))
        return {group.name: 0 if group is self.reference else next(others) for group in self.groups}

    def figures(self) -> dict[str, Figure]:
        """Figures by title: accuracy by cost, measures with their intervals, curves of the training."""
        return {**self.costs(), **self.intervals(), **self.curves()}

    def costs(self) -> dict[str, Figure]:
        """Test accuracy by multiply-adds, where two finished networks or more have both."""
        known = {
            group.name: (group.multiply_adds, group.parameters, values)
            for group in self.groups
            if group.finished and group.multiply_adds and group.parameters
            if (values := list(group.values("accuracy").values()))
        }
        if len(known) < 2:
            return {}
        figure = figures.scatter(
            {name: adds for name, (adds, _, _) in known.items()},
            {
                name: Estimate(math.fsum(values) / len(values), min(values), max(values), len(values))
                for name, (_, _, values) in known.items()
            },
            xlabel="multiply-adds",
            percent=True,
            areas={name: parameters for name, (_, parameters, _) in known.items()},
            styles=self.styles,
        )
        return {"Test accuracy by multiply-adds": figure}

    def intervals(self) -> dict[str, Figure]:
        """Accuracy and the two biases with their intervals, and where a network has several seeds, a mark for each."""
        drawn = {}
        for measure in COMPARED:
            rows = {group.name: estimate for group in self.groups if (estimate := group.estimate(measure)) is not None}
            points = {group.name: list(group.values(measure).values()) for group in self.groups if len(group.runs) > 1}
            if rows:
                drawn[f"{name_of(measure).capitalize()} with 95% intervals"] = figures.intervals(
                    rows, percent=True, points=points, limits=(0, 1), styles=self.styles
                )
        return drawn

    def curves(self) -> dict[str, Figure]:
        """Test accuracy and losses by epoch, each where any network has it."""
        drawn = {}
        for title, column in _CURVES.items():
            lines = {group.name: [_curve(run, column) for run in group.runs] for group in self.groups}
            # The attention loss is 0 throughout where a network is not trained with it.
            zero = column == "attention"
            lines = {
                name: runs for name, runs in lines.items() if any(any(run.values()) if zero else run for run in runs)
            }
            if lines:
                drawn[title] = figures.curves(
                    lines, xlabel="epoch", percent=column.startswith("test_"), styles=self.styles, legend=False
                )
        return drawn


def compare(groups: Sequence[SeedGroup], reference: SeedGroup) -> tuple[list[Comparison], list[Note]]:
    """Every network against the reference, in every measure that both have. Nothing is corrected yet: see `stats.holm`.

    Args:
        groups: networks that were tested on the same images.
        reference: one of them.

    Returns:
        The comparisons, and notes on networks that cannot be compared, and on images and options that differ.
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
        ours, theirs = group.first.bias, reference.first.bias
        if ours is None or theirs is None:
            missing = [one.name for one in (group, reference) if one.first.bias is None]
            notes += [Note(about, f"not compared: no bias.json of {name}") for name in missing]
            continue
        try:
            comparison = bias.compare(ours, theirs)
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
    """In every measure that at least two seeds have of both; none if either is not finished."""
    comparisons = []
    for measure in COMPARED if group.finished and reference.finished else ():
        ours, theirs = group.values(measure), reference.values(measure)
        seeds = sorted(ours.keys() & theirs.keys())
        if len(seeds) > 1:
            difference = stats.over_seeds([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
            comparisons.append(Comparison(group.name, reference.name, measure, "seeds", difference))
    return comparisons


def _curve(run: RunResult, column: str) -> dict[float, float]:
    """Epoch -> value, where there is a finite one."""
    values = {line["epoch"]: line.get(column) for line in run.metrics}
    return {epoch: v for epoch, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
