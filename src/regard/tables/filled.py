"""A published table with runs of one's own beside its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from regard.tables.metrics import Metric
from regard.tables.published import Cell, PublishedTable
from regard.tables.setting import Setting
from regard.tables.statistics import PairedDifference, Statistics, describe, paired_difference
from regard.tables.verdict import Verdict, verdict


@dataclass(frozen=True)
class SeedValue:
    """A finished run in a cell.

    Attributes:
        seed: of its recipe.
        run: the name of its folder.
        values: after the last epoch, one a metric, in percent; None where the run does not say it.
        version: of regard that trained it, with the commit of a checkout; empty where that is not known.
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
        seeds: the finished runs, one a seed, in order of the seeds.
        epochs: of its recipe in the setting; None without a recipe.
        full_epochs: of its recipe as published.
        recipe: the first digits of a digest of its recipe in the setting, without the seed; None without a recipe.
        unfinished: names of runs that are not finished.
        waiting: names of runs that do not count because their teacher is not finished.
    """

    cell: Cell
    seeds: tuple[SeedValue, ...] = ()
    epochs: int | None = None
    full_epochs: int | None = None
    recipe: str | None = None
    unfinished: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()

    def values(self, metric: int) -> dict[int, float]:
        """seed -> value of a metric, for the runs that say it."""
        return {one.seed: value for one in self.seeds if (value := one.values[metric]) is not None}

    def statistics(self, metric: int) -> Statistics | None:
        """Over the seeds; None if there are no values."""
        values = list(self.values(metric).values())
        return describe(values) if values else None

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions of regard that trained the runs."""
        return tuple(sorted({one.version or "not known" for one in self.seeds}))


@dataclass(frozen=True)
class FilledComparison:
    """Two columns of a row, in one metric.

    Attributes:
        row: its key.
        column: the column that is to be better.
        against: than this one.
        metric: in what.
        published: the difference as published, column minus against, in points; None where it is not known.
        ours: over the seeds that both have; None without any.
        verdict: what may be said.
        checked: whether both published numbers were compared with their source.
    """

    row: str
    column: str
    against: str
    metric: Metric
    published: float | None
    ours: PairedDifference | None
    verdict: Verdict
    checked: bool = True


@dataclass(frozen=True)
class FilledTable:
    """A published table, and what the runs of one store make of it.

    Attributes:
        table: as published.
        setting: of the runs that are shown; None if there are none.
        data: in words, what data those runs have: "cifar10", or "folder, 12,000 training images"; empty without runs.
        cells: by (row, column), one for every cell of the table.
        others: in words, runs of the table in other settings, which are not shown, and the options that show them.
        left_out: in words, runs that belong to the table by their name and are not counted, and why.
    """

    table: PublishedTable
    setting: Setting | None
    data: str
    cells: Mapping[tuple[str, str], FilledCell]
    others: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def finished(self) -> tuple[str, ...]:
        """The names of the finished runs, each once, though a run may stand in several cells."""
        return tuple(dict.fromkeys(one.run for cell in self.cells.values() for one in cell.seeds))

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Likewise, of those that are not finished."""
        return tuple(dict.fromkeys(name for cell in self.cells.values() for name in cell.unfinished))

    @property
    def shortened(self) -> bool:
        """Whether the runs have fewer epochs than published."""
        return any(cell.seeds and cell.epochs != cell.full_epochs for cell in self.cells.values())

    @property
    def published_data(self) -> bool:
        """Whether the runs have the data of the recipes."""
        return self.setting is None or not self.setting.overrides

    @cached_property
    def comparisons(self) -> tuple[FilledComparison, ...]:
        """The comparisons of the table in every row that has both columns, in every metric."""
        return tuple(
            self._compare(self.cells[row, column], self.cells[row, against], index)
            for row in self.table.rows
            for column, against in self.table.comparisons
            if (row, column) in self.cells and (row, against) in self.cells
            for index, metric in enumerate(self.table.metrics)
            if not metric.is_cost
        )

    def _compare(self, one: FilledCell, other: FilledCell, index: int) -> FilledComparison:
        metric = self.table.metrics[index]
        mine, theirs = one.cell.published[index], other.cell.published[index]
        published = None if mine is None or theirs is None else mine - theirs
        values, base = one.values(index), other.values(index)
        seeds = sorted(values.keys() & base.keys())
        ours = paired_difference([values[seed] for seed in seeds], [base[seed] for seed in seeds]) if seeds else None
        faithful = self.published_data and one.epochs == one.full_epochs and other.epochs == other.full_epochs
        said = verdict(published, ours, higher_is_better=metric.higher_is_better, faithful=faithful)
        checked = one.cell.checked and other.cell.checked
        return FilledComparison(
            one.cell.row, one.cell.column, other.cell.column, metric, published, ours, said, checked
        )
