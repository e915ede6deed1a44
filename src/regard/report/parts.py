"""Networks that were tested on the same images, and the figures of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regard import figures
from regard.report import bias_records
from regard.report.collect import RunResult
from regard.report.comparisons import Comparison
from regard.report.glossary import name_of
from regard.report.records import Note
from regard.report.seeds import SeedGroup
from regard.stats import Difference, Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CURVES = {
    "Test accuracy": "test_accuracy",
    "AP of boxes on test images": "test_box_ap",
    "AP of masks on test images": "test_mask_ap",
    "Training loss (cross entropy with the labels)": "task",
    "Attention loss, before its weight beta": "attention",
}
_BARS = ("accuracy", "box_ap", "mask_ap", "position_bias", "range_bias")


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
        for measure in _BARS:
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


def _curve(run: RunResult, column: str) -> dict[float, float]:
    """Epoch -> value, where there is a finite one."""
    values = {line["epoch"]: line.get(column) for line in run.metrics}
    return {epoch: v for epoch, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
