"""What a filled table says, in words, before it is laid out for a terminal, a page or a file.

All texts are on one line and can be printed; they are not escaped for any format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from regard.formatting import printable
from regard.tables.filled import FilledCell, FilledComparison, FilledTable
from regard.tables.published import PublishedTable
from regard.tables.statistics import LEVEL, PairedDifference, Statistics, pairs_needed
from regard.tables.words import DASH, counted, probability, reach, sentence, signed, span

UNCHECKED = "†"
NO_RECIPE = "no recipe"
NOT_SAID = "not measured"
NOT_PRINTED = "not given"


@dataclass(frozen=True)
class Entry:
    """A cell in one metric.

    Attributes:
        filled: the cell.
        row: title.
        column: title.
        metric: title.
        number: as published; None where nothing was.
        published: the same as text, with a mark if it was not checked.
        ours: what the runs come to, with the deviation and in brackets the number of seeds; or why there is nothing.
        headline: of the runs, in the table's own statistic; None without values.
        statistics: of the runs; None without values.
        values: by seed.
    """

    filled: FilledCell
    row: str
    column: str
    metric: str
    number: float | None
    published: str
    ours: str
    headline: float | None
    statistics: Statistics | None
    values: dict[int, float]

    @property
    def seeds(self) -> str:
        """Every seed and its value: 0: 91.20, 1: 91.05."""
        return ", ".join(f"{seed}: {value:.2f}" for seed, value in self.values.items())

    @property
    def interval(self) -> str:
        """Of the mean; a dash for one seed."""
        said = self.statistics
        return DASH if said is None or said.low is None or said.high is None else f"{said.low:.2f} to {said.high:.2f}"

    @property
    def mean(self) -> str:
        """With the deviation, if there is one."""
        return DASH if self.statistics is None else _spread(self.statistics.mean, self.statistics)

    @property
    def median(self) -> str:
        return DASH if self.statistics is None else f"{self.statistics.median:.2f}"


@dataclass(frozen=True)
class Origin:
    """Where the numbers of a cell with runs come from.

    Attributes:
        cell: titles of its row and column.
        epochs: how many, and of how many: 15 of 200 epochs.
        recipe: name and digest.
        versions: of regard.
        data: in words.
        entries: one a metric that the runs say.
    """

    cell: str
    epochs: str
    recipe: str
    versions: str
    data: str
    entries: tuple[Entry, ...]

    @property
    def whence(self) -> str:
        """All but the numbers."""
        return f"{self.epochs}, {self.recipe}, regard {self.versions}, data {self.data or DASH}"


@dataclass(frozen=True)
class Compared:
    """A comparison in one metric.

    Attributes:
        row: title.
        pair: the two columns.
        metric: title.
        published: the difference, with a mark if either of its numbers was not checked.
        ours: the difference; a dash without runs.
        interval: of ours; empty without one.
        p: that decided; empty for fewer than two seeds.
        verdict: in words.
        why: a sentence.
        difference: the numbers of ours.
        number: the published difference.
        sides: 1 where p is one-sided, in the published direction; 2 where it is two-sided; None without p.
    """

    row: str
    pair: str
    metric: str
    published: str
    ours: str
    interval: str
    p: str
    verdict: str
    why: str
    difference: PairedDifference | None
    number: float | None
    sides: Literal[1, 2] | None

    @property
    def numbers(self) -> str:
        """Ours with its interval: +0.44 (+0.38 to +0.50)."""
        return f"{self.ours} ({self.interval})" if self.interval else self.ours

    @property
    def tone(self) -> Literal["good", "mid", "bad", ""]:
        """How the verdict is coloured; its words say the same."""
        return _TONES.get(self.verdict, "")


_TONES: dict[str, Literal["good", "mid", "bad"]] = {
    "reproduced": "good",
    "reproduced, larger": "good",
    "better": "good",
    "same direction, in another setting": "good",
    "same direction, smaller": "mid",
    "contradicted": "bad",
    "worse": "bad",
    "opposite direction, in another setting": "bad",
}


class Line(NamedTuple):
    """A row in one metric.

    Attributes:
        title: of the row; empty after its first metric.
        metric: title; empty if there is but one.
        entries: one a column; None where the table has no cell.
    """

    title: str
    metric: str
    entries: tuple[Entry | None, ...]

    @property
    def what(self) -> str:
        """Before "published" and "ours"."""
        return f"{self.metric}, " if self.metric else ""


@dataclass(frozen=True)
class Contents:
    """A filled table in words.

    Attributes:
        title: of the table.
        facts: where it was published, what its numbers are, and of what runs ours are.
        warnings: why ours are not to be held against the published numbers as they are; empty if they may be.
        rows: titles by key.
        columns: titles by key.
        metrics: titles.
        entries: by (row, column, place of the metric).
        origins: of the cells that have runs.
        comparisons: all.
        notes: sentences that belong below.
        notes_with_runs: those that belong below where only cells and comparisons with runs are shown.
    """

    title: str
    facts: tuple[str, ...]
    warnings: tuple[str, ...]
    rows: dict[str, str]
    columns: dict[str, str]
    metrics: tuple[str, ...]
    entries: dict[tuple[str, str, int], Entry]
    origins: tuple[Origin, ...]
    comparisons: tuple[Compared, ...]
    notes: tuple[str, ...]
    notes_with_runs: tuple[str, ...]

    @property
    def several(self) -> bool:
        """Whether there is more than one metric."""
        return len(self.metrics) > 1

    def lines(self) -> Iterator[Line]:
        """Of the table with its own columns: for each row and metric, what was published and what is ours."""
        for row, title in self.rows.items():
            for index, metric in enumerate(self.metrics):
                found = [self.entries.get((row, column, index)) for column in self.columns]
                yield Line(title if index == 0 else "", metric if self.several else "", tuple(found))

    def where(self, one: Compared) -> str:
        """The row of a comparison, with the metric if there are several."""
        return f"{one.row}, {one.metric}" if self.several else one.row


def contents(filled: FilledTable) -> Contents:
    """The words of a filled table, the same for the same runs."""
    table = filled.table
    rows = {key: printable(title) for key, title in table.rows.items()}
    columns = {key: printable(title) for key, title in table.columns.items()}
    metrics = tuple(printable(metric.title) for metric in table.metrics)
    decimals = [_decimals(table, index) for index in range(len(metrics))]
    entries = {
        (row, column, index): _entry(filled, filled.cells[row, column], index, decimals[index])
        for row in rows
        for column in columns
        if (row, column) in filled.cells
        for index in range(len(metrics))
    }
    compared = tuple(_compared(filled, one) for one in filled.comparisons)
    with_runs = {place: entry for place, entry in entries.items() if entry.values}
    return Contents(
        title=printable(table.title),
        facts=_facts(filled),
        warnings=_warnings(filled),
        rows=rows,
        columns=columns,
        metrics=metrics,
        entries=entries,
        origins=_origins(filled, entries),
        comparisons=compared,
        notes=_notes(filled, entries, compared),
        notes_with_runs=_notes(filled, with_runs, [one for one in compared if one.difference is not None]),
    )


def title_of(filled: FilledTable, cell: FilledCell) -> str:
    """A cell's place: CIFAR-10, LSAS-SE."""
    table = filled.table
    return f"{printable(table.rows[cell.cell.row])}, {printable(table.columns[cell.cell.column])}"


def _entry(filled: FilledTable, cell: FilledCell, index: int, decimals: int) -> Entry:
    table, number, said = filled.table, cell.cell.published[index], cell.statistics(index)
    mark = "" if cell.cell.checked else UNCHECKED
    headline = None if said is None else said.median if table.statistic == "median" else said.mean
    if said is not None and headline is not None:
        ours = f"{_spread(headline, said)} ({said.count})"
    elif cell.cell.recipe is None:
        ours = NO_RECIPE
    else:
        ours = NOT_SAID if cell.seeds else DASH
    return Entry(
        filled=cell,
        row=printable(table.rows[cell.cell.row]),
        column=printable(table.columns[cell.cell.column]),
        metric=printable(table.metrics[index].title),
        number=number,
        published=NOT_PRINTED if number is None else f"{number:.{decimals}f}{mark}",
        ours=ours,
        headline=headline,
        statistics=said,
        values=cell.values(index),
    )


def _spread(middle: float, said: Statistics) -> str:
    return f"{middle:.2f}" if said.deviation is None else f"{middle:.2f} ± {said.deviation:.2f}"


def _decimals(table: PublishedTable, index: int) -> int:
    """With how many the numbers of a metric were printed: as many as the longest has."""
    numbers = [number for cell in table.cells.values() if (number := cell.published[index]) is not None]
    return max((len(f"{number:.6f}".rstrip("0").partition(".")[2]) for number in numbers), default=2)


def _facts(filled: FilledTable) -> tuple[str, ...]:
    table = filled.table
    said = [sentence(f"Source: {table.source}")] if table.source else []
    directions = {metric.higher_is_better for metric in table.metrics}
    better = f"; {'higher' if directions == {True} else 'lower'} is better" if len(directions) == 1 else ""
    said.append(sentence(f"Numbers: {'; '.join(metric.title for metric in table.metrics)}{better}"))
    runs = "; of how many runs is not said" if table.runs is None else f" of {counted(table.runs, 'run')}"
    if table.printed:
        said.append(f"Published: {'one number' if table.statistic == 'single' else f'the {table.statistic}'}{runs}.")
    data = f", data: {filled.data}" if filled.data else ""
    said.append(sentence(f"Runs: {len(filled.finished)} finished{data}"))
    return tuple(said)


def _warnings(filled: FilledTable) -> tuple[str, ...]:
    said = []
    apart = "; not comparable with the published numbers in absolute terms" if filled.table.printed else ""
    if filled.shortened:
        cells = [cell for cell in filled.cells.values() if cell.seeds and cell.epochs and cell.full_epochs]
        epochs, full = {cell.epochs or 0 for cell in cells}, {cell.full_epochs or 0 for cell in cells}
        said.append(f"Shortened schedules: {span(epochs)} of {span(full)} epochs{apart}.")
    if not filled.published_data and filled.setting is not None:
        changed = ", ".join(f"{name} {value}" for name, value in sorted(filled.setting.overrides.items()))
        said.append(f"Another setting than the recipes': {printable(changed)}{apart}.")
    return tuple(said)


def _origins(filled: FilledTable, entries: dict[tuple[str, str, int], Entry]) -> tuple[Origin, ...]:
    found: dict[tuple[str, str], list[Entry]] = {}
    for (row, column, _), entry in entries.items():
        if entry.filled.seeds:
            found.setdefault((row, column), []).append(entry)
    return tuple(
        Origin(
            cell=title_of(filled, filled.cells[place]),
            epochs=_epochs(filled.cells[place]),
            recipe=_recipe(filled.cells[place]),
            versions=printable(", ".join(filled.cells[place].versions)),
            data=printable(filled.data),
            entries=tuple(entry for entry in some if entry.values),
        )
        for place, some in found.items()
    )


def _epochs(cell: FilledCell) -> str:
    full = "" if cell.epochs == cell.full_epochs else f" of {cell.full_epochs}"
    return f"{cell.epochs}{full} epochs" if full or cell.epochs != 1 else "1 epoch"


def _recipe(cell: FilledCell) -> str:
    return printable(f"{cell.cell.recipe or NO_RECIPE}{f' ({cell.recipe})' if cell.recipe else ''}")


def _compared(filled: FilledTable, one: FilledComparison) -> Compared:
    table, ours = filled.table, one.ours
    p = one.verdict.p
    mark = "" if one.checked else UNCHECKED
    return Compared(
        row=printable(table.rows[one.row]),
        pair=f"{printable(table.columns[one.column])} against {printable(table.columns[one.against])}",
        metric=printable(one.metric.title),
        published=NOT_PRINTED if one.published is None else f"{signed(one.published)}{mark}",
        ours=DASH if ours is None else signed(ours.difference),
        interval="" if ours is None or ours.low is None or ours.high is None else reach(ours.low, ours.high),
        p="" if p is None else probability(p).removeprefix("p ").removeprefix("= "),
        verdict=one.verdict.words,
        why=printable(one.verdict.why),
        difference=ours,
        number=one.published,
        sides=one.verdict.sides,
    )


def _notes(
    filled: FilledTable, entries: dict[tuple[str, str, int], Entry], compared: Sequence[Compared]
) -> tuple[str, ...]:
    """What belongs below these cells and comparisons; signs that they do not have are not explained."""
    places = dict.fromkeys((row, column) for row, column, _ in entries)
    cells = [(title_of(filled, filled.cells[place]), filled.cells[place]) for place in places]
    said = [sentence(note) for note in filled.table.notes]
    said += [sentence(f"{title}: {cell.cell.note}") for title, cell in cells if cell.cell.note]
    said += _signs(entries, compared)
    said += _on_numbers(filled, entries)
    said += _on_differences(filled, compared)
    said += [note for title, cell in cells for note in _on_teachers(title, cell)]
    if filled.unfinished:
        said.append(sentence(f"Not finished: {printable(', '.join(filled.unfinished))}"))
    said += [sentence(f"Not shown: {other}") for other in filled.others]
    said += [sentence(f"Not counted: {reason}") for reason in filled.left_out]
    return tuple(said)


def _signs(entries: dict[tuple[str, str, int], Entry], compared: Sequence[Compared]) -> list[str]:
    said = []
    between = any(UNCHECKED in one.published for one in compared)
    if between or any(UNCHECKED in entry.published for entry in entries.values()):
        also = " A difference has the sign if either of its two numbers was not." if between else ""
        said.append(f"{UNCHECKED} The published number was not compared with the source.{also}")
    return said + [words for text, words in _EMPTY.items() if any(entry.ours == text for entry in entries.values())]


def _on_numbers(filled: FilledTable, entries: dict[tuple[str, str, int], Entry]) -> list[str]:
    known = [entry.statistics for entry in entries.values() if entry.statistics is not None]
    said = []
    if known:
        middle = "median" if filled.table.statistic == "median" else "mean"
        said.append(
            f"Our numbers are those after the last epoch: the {middle} ± the sample standard deviation over the seeds, "
            "and in brackets how many seeds."
        )
    if any(one.low is not None for one in known):
        said.append("Confidence intervals of means: 95%, by Student's t over the seeds.")
    return said


def _on_differences(filled: FilledTable, compared: Sequence[Compared]) -> list[str]:
    """How differences are taken and tested, if any is of several seeds."""
    tested = [one for one in compared if one.sides is not None]
    if not tested:
        return []
    said = [
        "Differences are taken seed by seed, with 95% intervals of Student's t. p is the chance of one at least as "
        f"large if the sign of each seed's were a coin's{_sides({one.sides for one in tested})} A difference is "
        f"resolved if p is below {LEVEL:g} and its interval leaves zero out."
    ]
    if filled.table.statistic == "median":
        published = any(one.number is not None for one in tested)
        theirs = ", a published one that of two medians" if published else ""
        said.append(f"The table shows medians; a difference of ours is the mean of those seed by seed{theirs}.")
    return said


def _sides(sides: set[Literal[1, 2] | None]) -> str:
    """Which test it is, and from how many seeds on it can resolve anything."""
    one, two = (f"below {LEVEL:g} from {pairs_needed(sides=count)} seeds on" for count in (1, 2))
    if sides == {1}:
        return f", one-sided in the published direction; it can be {one}."
    if sides == {2}:
        return f", in either direction (two-sided); it can be {two}."
    return (
        f": one-sided where ours goes the published way, and it can be {one}; two-sided elsewhere, and it can be {two}."
    )


def _on_teachers(title: str, cell: FilledCell) -> list[str]:
    """Which runs of a cell share a teacher, so that they are fewer than they seem."""
    taught = Counter(one.teacher for one in cell.seeds if one.teacher)
    return [
        f"{count} of {len(cell.seeds)} runs of {title} learned from the same teacher, {printable(teacher)}; they are "
        "not independent."
        for teacher, count in sorted(taught.items())
        if count > 1
    ]


_EMPTY = {
    DASH: f"{DASH} No finished run yet.",
    NO_RECIPE: f"{NO_RECIPE.capitalize()}: regard has none for this cell.",
    NOT_SAID: f"{NOT_SAID.capitalize()}: the runs do not say this number.",
}
