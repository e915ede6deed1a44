"""A published table filled with our own runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from regard import stats
from regard.notebook import Tabular
from regard.stats import Difference, Estimate
from regard.tables.metrics import Metric
from regard.tables.overrides import Overrides
from regard.tables.published import Cell, PublishedTable
from regard.tables.verdict import verdict


@dataclass(frozen=True)
class SeedRun:
    """A finished run in a cell.

    Attributes:
        seed: seed of its recipe.
        run: name of its folder.
        values: one per metric, after the last epoch, in percent; None if the run does not have it.
        version: version of regard that trained it, with the commit of a checkout; empty if not known.
        teacher: name of its teacher's run in the store; empty for none.
    """

    seed: int
    run: str
    values: tuple[float | None, ...]
    version: str = ""
    teacher: str = ""


@dataclass(frozen=True)
class FilledCell:
    """A cell and its runs.

    Attributes:
        cell: the published cell.
        runs: the finished runs, one per seed, in order of the seeds.
        epochs: epochs of the recipe with the overrides; None without a recipe.
        full_epochs: epochs of the published recipe.
        digest: first digits of a digest of the recipe with the overrides and without the seed; None without a recipe.
        unfinished: names of unfinished runs.
        waiting: names of runs that do not count because their teacher is not finished.
    """

    cell: Cell
    runs: tuple[SeedRun, ...] = ()
    epochs: int | None = None
    full_epochs: int | None = None
    digest: str | None = None
    unfinished: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()

    def values(self, metric: int) -> dict[int, float]:
        """Seed -> value of a metric, for the runs that have it."""
        return {run.seed: value for run in self.runs if (value := run.values[metric]) is not None}

    def estimate(self, metric: int) -> Estimate:
        """The mean of a metric over the seeds."""
        return stats.mean(list(self.values(metric).values()))

    @property
    def versions(self) -> list[str]:
        """The versions of regard that trained the runs."""
        return sorted({run.version or "not known" for run in self.runs})


@dataclass(frozen=True)
class Comparison:
    """The difference between two columns of a row in one metric.

    Attributes:
        row: key of the row.
        column: the column that is expected to be better.
        against: the column that is subtracted.
        metric: the metric.
        published: the published difference, column minus against, in points; None if not known.
        difference: our difference, the mean over shared seeds, in points; corrected for all comparisons shown together.
        verdict: its label.
        checked: whether both published numbers were checked against the source.
    """

    row: str
    column: str
    against: str
    metric: Metric
    published: float | None
    difference: Difference
    verdict: str
    checked: bool = True


@dataclass(frozen=True)
class FilledTable(Tabular):
    """A published table, and the runs of one store that fill it.

    Attributes:
        table: the published table.
        overrides: overrides of the runs; None without runs.
        data: data of the runs, such as "cifar10" or "folder, 12,000 training images"; empty without runs.
        cells: (row, column) -> cell, for every cell of the table.
        others: (data, options that select them) -> number of finished runs with other overrides.
        excluded: name of a run -> the reason why it does not count although its name or recipe is a cell's.
        beside: differences shown together with the table, included in the correction of its comparisons.
    """

    table: PublishedTable
    overrides: Overrides | None
    data: str
    cells: Mapping[tuple[str, str], FilledCell]
    others: Mapping[tuple[str, str], int] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[Difference, ...] = ()

    @property
    def finished(self) -> tuple[str, ...]:
        """Names of the finished runs, without duplicates (a run may fill several cells)."""
        return tuple(dict.fromkeys(run.run for cell in self.cells.values() for run in cell.runs))

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Names of the unfinished runs, without duplicates."""
        return tuple(dict.fromkeys(name for cell in self.cells.values() for name in cell.unfinished))

    @property
    def faithful(self) -> bool:
        """Whether the runs have the published schedule and data."""
        fields = self.overrides is not None and self.overrides.fields
        return not fields and all(cell.epochs == cell.full_epochs for cell in self.cells.values() if cell.runs)

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The comparisons of the table, in every row with both columns and every metric except costs."""
        differences = stats.holm({**self.differences, **dict(enumerate(self.beside))})
        return tuple(self._comparison(*key, differences[key]) for key in self.differences)

    @cached_property
    def differences(self) -> dict[tuple[str, str, str, int], Difference]:
        """Our differences by (row, column, against, index of the metric), not corrected."""
        return {
            (row, column, against, index): stats.over_seeds(*self._pairs(row, column, against, index))
            for row in self.table.rows
            for column, against in self.table.comparisons
            if (row, column) in self.cells and (row, against) in self.cells
            for index, metric in enumerate(self.table.metrics)
            if not metric.is_cost
        }

    def _pairs(self, row: str, column: str, against: str, index: int) -> np.ndarray:
        """Values of both columns for their shared seeds, (2, N)."""
        columns = [self.cells[row, key].values(index) for key in (column, against)]
        seeds = sorted(columns[0].keys() & columns[1].keys())
        return np.array([[values[seed] for seed in seeds] for values in columns], dtype=float)

    def _comparison(self, row: str, column: str, against: str, index: int, difference: Difference) -> Comparison:
        first, second = self.cells[row, column].cell, self.cells[row, against].cell
        x, y = first.published[index], second.published[index]
        published = None if x is None or y is None else x - y
        column_values, against_values = self._pairs(row, column, against, index)
        metric = self.table.metrics[index]
        label = verdict(
            published,
            difference,
            column_values - against_values,
            runs=self.table.runs,
            median=self.table.statistic == "median",
            higher_is_better=metric.higher_is_better,
            faithful=self.faithful,
        )
        checked = first.checked and second.checked
        return Comparison(row, column, against, metric, published, difference, label, checked)

    _columns = ("row", "column", "metric", "published", "mean", "deviation", "n")

    def to_records(self) -> list[dict[str, Any]]:
        """One record per cell and metric, with the keys of row, column and metric."""
        return [
            self.record(cell, index) for cell in self.cells.values() for index, metric in enumerate(self.table.metrics)
        ]

    def record(self, cell: FilledCell, index: int) -> dict[str, Any]:
        """The record of a cell and the metric with this index: the published value, ours, and the runs."""
        by_seed, mean = cell.values(index), cell.estimate(index)
        values = list(by_seed.values())
        record = {
            "table": self.table.name,
            "row": cell.cell.row,
            "column": cell.cell.column,
            "metric": self.table.metrics[index].name,
            "published": cell.cell.published[index],
            "checked": cell.cell.checked,
            "statistic": self.table.statistic,
            "n": mean.n,
            "median": statistics.median(values) if values else None,
            "mean": mean.value,
            "deviation": statistics.stdev(values) if len(values) > 1 else None,
            "low": mean.low,
            "high": mean.high,
            "seeds": list(by_seed),
            "values": values,
            "unfinished": list(cell.unfinished),
            "epochs": cell.epochs,
            "full_epochs": cell.full_epochs,
            "recipe": cell.cell.recipe,
            "digest": cell.digest,
            "versions": cell.versions,
            "data": self.data if cell.runs else "",
        }
        return stats.without_nan(record)

    def comparison_records(self) -> list[dict[str, Any]]:
        """One record per comparison; `difference`, `low` and `high` are in points."""
        records = (
            {
                "table": self.table.name,
                "row": comparison.row,
                "column": comparison.column,
                "against": comparison.against,
                "metric": comparison.metric.name,
                "published": comparison.published,
                "checked": comparison.checked,
                "n": comparison.difference.n,
                "difference": comparison.difference.value,
                "low": comparison.difference.low,
                "high": comparison.difference.high,
                "p": comparison.difference.p,
                "p_adjusted": comparison.difference.p_adjusted,
                "verdict": comparison.verdict,
            }
            for comparison in self.comparisons
        )
        return [stats.without_nan(record) for record in records]


def corrected_together(tables: Sequence[FilledTable], beside: Sequence[Difference] = ()) -> list[FilledTable]:
    """Corrects the comparisons of all tables together, and together with the differences `beside` them."""
    indexed = [(i, difference) for i, table in enumerate(tables) for difference in table.differences.values()]
    return [
        replace(table, beside=(*beside, *(difference for j, difference in indexed if j != i)))
        for i, table in enumerate(tables)
    ]
