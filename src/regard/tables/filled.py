"""A published table with runs of one's own beside its numbers."""

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
        seed: of its recipe.
        run: the name of its folder.
        values: one for each metric, after the last epoch, in percent; None where the run does not have it.
        version: of regard that trained it, with the commit of a checkout; empty if not known.
        teacher: the run in the store that it learned from; empty for none.
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
        cell: what was published.
        runs: the finished runs, one for each seed, in order of the seeds.
        epochs: of its recipe with the overrides; None without a recipe.
        full_epochs: of its recipe as published.
        digest: first digits of a digest of its recipe with the overrides, without the seed; None without a recipe.
        unfinished: names of runs that are not finished.
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
        """seed -> value of a metric, for the runs that have it."""
        return {one.seed: value for one in self.runs if (value := one.values[metric]) is not None}

    def estimate(self, metric: int) -> Estimate:
        """The mean over the seeds."""
        return stats.mean(list(self.values(metric).values()))

    @property
    def versions(self) -> list[str]:
        """The versions of regard that trained the runs."""
        return sorted({one.version or "not known" for one in self.runs})


@dataclass(frozen=True)
class Comparison:
    """Two columns of a row in one metric.

    Attributes:
        row: its key.
        column: the column that is to be better.
        against: than this one.
        metric: the metric.
        published: the published difference, column minus against, in points; None where it is not known.
        difference: ours, the mean over the seeds that both have, in points; corrected for all shown together.
        verdict: its label.
        checked: whether both published numbers were compared with their source.
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
        table: as published.
        overrides: of the runs; None if there are none.
        data: the data of those runs: "cifar10", or "folder, 12,000 training images"; empty without runs.
        cells: by (row, column), one for every cell of the table.
        others: number of finished runs of the table with other overrides, by their data and the options that select
            them.
        excluded: why runs that belong to the table by their name do not count, by that name.
        beside: differences that are shown beside the table, for which its comparisons are corrected, too.
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
        """The names of the finished runs, each once, though a run may stand in several cells."""
        return tuple(dict.fromkeys(one.run for cell in self.cells.values() for one in cell.runs))

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Likewise, of those that are not finished."""
        return tuple(dict.fromkeys(name for cell in self.cells.values() for name in cell.unfinished))

    @property
    def faithful(self) -> bool:
        """Whether the runs have the schedule and the data of the recipes."""
        fields = self.overrides is not None and self.overrides.fields
        return not fields and all(cell.epochs == cell.full_epochs for cell in self.cells.values() if cell.runs)

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The comparisons of the table in every row that has both columns, in every metric but costs."""
        differences = stats.holm({**self.differences, **dict(enumerate(self.beside))})
        return tuple(self._comparison(*key, differences[key]) for key in self.differences)

    @cached_property
    def differences(self) -> dict[tuple[str, str, str, int], Difference]:
        """Ours by (row, column, against, index of the metric), not corrected."""
        return {
            (row, column, against, index): stats.over_seeds(*self._pairs(row, column, against, index))
            for row in self.table.rows
            for column, against in self.table.comparisons
            if (row, column) in self.cells and (row, against) in self.cells
            for index, metric in enumerate(self.table.metrics)
            if not metric.is_cost
        }

    def _pairs(self, row: str, column: str, against: str, index: int) -> np.ndarray:
        """Values of both columns for the seeds that both have, (2, N)."""
        first, second = (self.cells[row, one].values(index) for one in (column, against))
        seeds = sorted(first.keys() & second.keys())
        return np.array([[one[seed] for seed in seeds] for one in (first, second)], dtype=float)

    def _comparison(self, row: str, column: str, against: str, index: int, difference: Difference) -> Comparison:
        first, second = self.cells[row, column].cell, self.cells[row, against].cell
        x, y = first.published[index], second.published[index]
        published = None if x is None or y is None else x - y
        ours, theirs = self._pairs(row, column, against, index)
        metric = self.table.metrics[index]
        label = verdict(
            published,
            difference,
            ours - theirs,
            runs=self.table.runs,
            median=self.table.statistic == "median",
            higher_is_better=metric.higher_is_better,
            faithful=self.faithful,
        )
        checked = first.checked and second.checked
        return Comparison(row, column, against, metric, published, difference, label, checked)

    _columns = ("row", "column", "metric", "published", "mean", "deviation", "n")

    def to_records(self) -> list[dict[str, Any]]:
        """A record for each cell and metric; rows, columns and metrics are named by their keys."""
        return [
            self.record(cell, index) for cell in self.cells.values() for index, metric in enumerate(self.table.metrics)
        ]

    def record(self, cell: FilledCell, index: int) -> dict[str, Any]:
        """The record of a cell and of the metric with this index: its published value, ours, and the runs."""
        seeds, one = cell.values(index), cell.estimate(index)
        values = list(seeds.values())
        record = {
            "table": self.table.name,
            "row": cell.cell.row,
            "column": cell.cell.column,
            "metric": self.table.metrics[index].name,
            "published": cell.cell.published[index],
            "checked": cell.cell.checked,
            "statistic": self.table.statistic,
            "n": one.n,
            "median": statistics.median(values) if values else None,
            "mean": one.value,
            "deviation": statistics.stdev(values) if len(values) > 1 else None,
            "low": one.low,
            "high": one.high,
            "seeds": list(seeds),
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
        """A record for each comparison; `difference`, `low` and `high` are in points."""
        records = (
            {
                "table": self.table.name,
                "row": one.row,
                "column": one.column,
                "against": one.against,
                "metric": one.metric.name,
                "published": one.published,
                "checked": one.checked,
                "n": one.difference.n,
                "difference": one.difference.value,
                "low": one.difference.low,
                "high": one.difference.high,
                "p": one.difference.p,
                "p_adjusted": one.difference.p_adjusted,
                "verdict": one.verdict,
            }
            for one in self.comparisons
        )
        return [stats.without_nan(record) for record in records]


def corrected_together(tables: Sequence[FilledTable], beside: Sequence[Difference] = ()) -> list[FilledTable]:
    """Tables whose comparisons are corrected for those of all of them, and for other differences beside them."""
    every = [(i, difference) for i, table in enumerate(tables) for difference in table.differences.values()]
    return [replace(table, beside=(*beside, *(one for j, one in every if j != i))) for i, table in enumerate(tables)]
