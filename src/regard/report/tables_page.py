"""Published tables with our runs beside them, as one page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from matplotlib.ticker import MaxNLocator

from regard import recipes
from regard.errors import InputError
from regard.formatting import printable
from regard.report.template import write_page
from regard.store import StoredRun, read_run
from regard.tables.contents import Compared, Contents, Entry, contents
from regard.tables.filled import FilledTable
from regard.tables.filling import fill
from regard.tables.matching import folder_name
from regard.tables.published import PublishedTable, load_table, table_names
from regard.training import ModelRecipe, Run

WIDTH, HEIGHT = 220, 26
_EDGE = 10.0  # for the outermost dots, and half of a number of the axis
_FURTHEST = 2.5  # of the largest difference: how far its interval is drawn
_WHOLE = (False, False)  # no end of an interval is beyond the picture


@dataclass(frozen=True)
class Scale:
    """Numbers along a strip.

    Attributes:
        low: at its left.
        high: at its right.
        ticks: numbers in between, with their texts.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """The place of a value; beyond either end, the end."""
        share = min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))
        return round(_EDGE + share * (WIDTH - 2 * _EDGE), 1)


@dataclass(frozen=True)
class Strip:
    """A picture of a line of numbers; places along it.

    Attributes:
        published: of the published number; None if that is not drawn.
        dots: of the seeds.
        middle: of the mean; None without seeds.
        reach: ends of its interval; None without one.
        cut: whether its left end and its right one lie beyond the picture, at whose edge it is drawn then.
        label: what it shows, for who cannot see it.
    """

    published: float | None
    dots: tuple[float, ...]
    middle: float | None
    reach: tuple[float, float] | None
    cut: tuple[bool, bool]
    label: str


@dataclass(frozen=True)
class Block:
    """A row of a table in one metric.

    Attributes:
        title: of it.
        scale: of its strips; None if nothing is drawn.
        lines: one a column.
    """

    title: str
    scale: Scale | None
    lines: tuple[tuple[Entry, Strip | None], ...]


@dataclass(frozen=True)
class Section:
    """A table of the page.

    Attributes:
        anchor: to link to.
        contents: its words.
        blocks: its numbers.
        drawn: whether any of our runs is drawn.
        printed: whether any number was published.
        apart: whether published numbers are left out of the pictures, being of another setting.
        compared: with a strip each.
        waiting: comparisons without runs.
    """

    anchor: str
    contents: Contents
    blocks: tuple[Block, ...]
    drawn: bool
    printed: bool
    apart: bool
    compared: tuple[tuple[Compared, Strip], ...]
    waiting: tuple[Compared, ...]


def write_tables_html(filled: Sequence[FilledTable], path: str | Path, title: str | None = None) -> Path:
    """Writes tables as one self-contained page.

    Of each: published numbers and ours, every seed as a dot, comparisons and what may be said of them, notes. The page
    depends on the tables alone: the same ones give the same bytes.

    Args:
        filled: at least one.
        path: of the page; its folder is made if need be.
        title: of the page; None: that of the only table, or one for all.

    Returns:
        The path.

    Raises:
        InputError: no tables, or a place that cannot be written.
    """
    if not filled:
        raise InputError("no tables to write; give at least one")
    sections = [_section(one, place) for place, one in enumerate(filled)]
    if title is None:
        title = sections[0].contents.title if len(sections) == 1 else "Published tables and our runs"
    return write_page("tables.html", path, title=printable(title), sections=sections, width=WIDTH, height=HEIGHT)


def _section(filled: FilledTable, place: int) -> Section:
    said = contents(filled)
    apart = filled.shortened or not filled.published_data
    blocks = []
    for row, title in said.rows.items():
        for index, metric in enumerate(said.metrics):
            found = [said.entries.get((row, column, index)) for column in said.columns]
            blocks.append(_block(f"{title}, {metric}", [one for one in found if one is not None], apart))
    ours = [one for one in said.comparisons if one.difference is not None]
    return Section(
        anchor=f"table-{place + 1}-{re.sub('[^a-z0-9]+', '-', filled.table.name.lower()).strip('-')}",
        contents=said,
        blocks=tuple(blocks),
        drawn=any(block.scale for block in blocks),
        printed=filled.table.printed,
        apart=apart,
        compared=tuple(zip(ours, _differences(said, ours), strict=True)),
        waiting=tuple(one for one in said.comparisons if one.difference is None),
    )


def _block(title: str, entries: list[Entry], apart: bool) -> Block:
    numbers = [value for entry in entries for value in entry.values.values()]
    if not numbers:
        return Block(title, None, tuple((entry, None) for entry in entries))
    if not apart:
        numbers += [entry.number for entry in entries if entry.number is not None]
    scale = _scale(min(numbers), max(numbers))
    return Block(title, scale, tuple((entry, _strip(entry, scale, apart)) for entry in entries))


def _strip(entry: Entry, scale: Scale, apart: bool) -> Strip:
    said = entry.statistics
    reach, cut = (None, _WHOLE) if said is None else _reach(said.low, said.high, scale)
    label = f"published {entry.published}; ours {entry.seeds or 'without values'}"
    if said is not None and reach is not None:
        label += f"; mean {said.mean:.2f}, 95% interval {entry.interval}{_beyond(cut)}"
    return Strip(
        published=None if apart or entry.number is None else scale.at(entry.number),
        dots=tuple(scale.at(value) for value in entry.values.values()),
        middle=None if said is None else scale.at(said.mean),
        reach=reach,
        cut=cut,
        label=label,
    )


def _scale(low: float, high: float) -> Scale:
    """From below the lowest to above the highest, with some round numbers in between."""
    room = max(0.04 * (high - low), 0.05)
    low, high = low - room, high + room
    ticks = [float(tick) for tick in MaxNLocator(3, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]
    decimals = max((len(f"{tick:.4f}".rstrip("0").partition(".")[2]) for tick in ticks), default=0)
    return Scale(low, high, tuple((tick, f"{tick:.{decimals}f}") for tick in ticks))


def _differences(said: Contents, ours: Sequence[Compared]) -> list[Strip]:
    """Differences on one scale a metric, with 0 in its middle."""
    furthest: dict[str, float] = {}
    for one in ours:
        assert one.difference is not None
        size = max(abs(one.difference.difference), abs(one.number or 0.0))
        ends = [abs(end) for end in (one.difference.low, one.difference.high) if end is not None]
        size = max(size, min(max(ends, default=0.0), _FURTHEST * size), 0.05)
        furthest[one.metric] = max(furthest.get(one.metric, 0.0), size)
    strips = []
    for one in ours:
        found = one.difference
        assert found is not None
        scale = Scale(-furthest[one.metric], furthest[one.metric], ())
        reach, cut = _reach(found.low, found.high, scale)
        strips.append(
            Strip(
                published=None if one.number is None else scale.at(one.number),
                dots=(),
                middle=scale.at(found.difference),
                reach=reach,
                cut=cut,
                label=f"published {one.published}; ours {one.numbers}{_beyond(cut)}",
            )
        )
    return strips


def _reach(low: float | None, high: float | None, scale: Scale) -> tuple[tuple[float, float] | None, tuple[bool, bool]]:
    """Where an interval is drawn, if there is one, and which ends of it are beyond the picture."""
    if low is None or high is None:
        return None, _WHOLE
    return (scale.at(low), scale.at(high)), (low < scale.low, high > scale.high)


def _beyond(cut: tuple[bool, bool]) -> str:
    """What the picture does not show of an interval, for who cannot see its arrows."""
    sides = " and ".join(side for side, beyond in zip(("left", "right"), cut, strict=True) if beyond)
    return f"; the interval goes on beyond the {sides} of the picture" if sides else ""


def filled_tables(runs: Iterable[Run]) -> list[FilledTable]:
    """The tables that come with regard and have such runs in a comparison, each with the runs of one folder.

    The teachers of these runs are looked for beside them. They fill no cell unless they are among the runs.
    """
    stores: dict[Path, list[StoredRun]] = {}
    for run in runs:
        place = run.folder.resolve()
        if (found := read_run(place)) is not None:
            stores.setdefault(place.parent, []).append(found)
    tables = [load_table(name) for name in table_names()]
    filled = []
    for folder, stored in stores.items():
        beside = _teachers(folder, stored)
        filled += [fill(table, stored, beside=beside) for table in tables if _may_hold(table, stored)]
    return [one for one in filled if _compared(one)]


def _teachers(folder: Path, runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs in a folder that taught some of its runs, but for these themselves."""
    names = {folder_name(teacher) for run in runs for teacher in run.teachers} - {run.name for run in runs}
    found = [read_run(folder / name) for name in sorted(names)]
    return [run for run in found if run is not None]


def _may_hold(table: PublishedTable, runs: Sequence[StoredRun]) -> bool:
    """Whether any of these runs has a network of the table; loading all recipes of all tables would take seconds."""
    networks = {_network(run.recipe) for run in runs}
    return any(_network_of(cell.recipe) in networks for cell in table.cells.values() if cell.recipe is not None)


@cache
def _network_of(recipe: str) -> str:
    return _network(yaml.safe_load(recipes.find(recipe).read_text(encoding="utf-8")))


def _network(recipe: Mapping[str, Any]) -> str:
    """The name of a network in a recipe as it is in its file."""
    return str((recipe.get("model") or {}).get("name", ModelRecipe.name))


def _compared(filled: FilledTable) -> bool:
    """Whether a cell of a comparison has runs."""
    columns = {column for pair in filled.table.comparisons for column in pair}
    return any(cell.seeds for (_, column), cell in filled.cells.items() if column in columns)
