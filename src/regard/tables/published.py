"""Published tables as data: what was printed, where, and the recipe that fills each cell with runs of one's own.

A table is a YAML file::

    title: ResNet164 with SE and with LSAS-SE
    source: LSAS (arXiv 2305.05200), table 2
    metrics: [accuracy]          # one or more of `metrics.METRICS`
    statistic: mean              # what was printed of several runs: mean, median, or single
    runs: 3                      # number of these runs; left out if the source does not state it
    checked: true                # whether the numbers were compared with the source
    columns: {se: SE, lsas-se: LSAS-SE}
    comparisons: [[lsas-se, se]] # a column, and the one it is to beat
    rows:
      cifar10:
        title: CIFAR-10
        se: {published: 94.57, recipe: lsas/resnet164-se-cifar10}
        lsas-se: {published: 95.01, recipe: lsas/resnet164-lsas-se-cifar10, checked: false, note: …}
      wrn:
        title: WRN-16-1
        se: {recipe: lsas/resnet164-se-cifar10, overrides: {model.name: wrn-16-1}}
    notes: [ … ]                 # sentences that belong below it

`published` is in percent, costs in their own unit. With several metrics it is a list of as many numbers, null where one
was not printed. A cell whose recipe has a teacher names the column of its row that has the teacher's recipe, as in
`teacher: teacher`. Fields of the recipe that have other values in a cell are its `overrides`, by dotted name; those of
a row are of all its cells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from regard.errors import InputError, unknown
from regard.strict_yaml import read_yaml
from regard.tables.metrics import METRICS, Metric
from regard.training import Recipe, field_arguments, load_recipe

T = TypeVar("T")
Statistic = Literal["mean", "median", "single"]

_TABLE = {
    *("title", "source", "metrics", "statistic", "runs", "checked"),
    *("columns", "comparisons", "rows", "notes"),
}
_ROW = ("title", "overrides")  # fields of a row, besides its columns
_CELL = {"published", "recipe", "overrides", "teacher", "checked", "note"}


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        row: its row's key.
        column: its column's key.
        published: what was printed, a number a metric; None where nothing was.
        checked: whether that was compared with the source.
        recipe: the name or the path of the recipe that fills it; None: regard has none.
        overrides: fields of that recipe that have other values here, by dotted name; the source among them.
        teacher: the column of the same row whose network teaches this one.
        note: a sentence about it.
        file: of its table, for errors.
    """

    row: str
    column: str
    published: tuple[float | None, ...]
    checked: bool = True
    recipe: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    teacher: str | None = None
    note: str = ""
    file: str = field(default="", repr=False, compare=False)

    @property
    def position(self) -> tuple[str, str]:
        """Its row and column."""
        return self.row, self.column

    @cached_property
    def full_recipe(self) -> Recipe | None:
        """Its recipe with its overrides, read once.

        Raises:
            InputError: there is no such recipe, or it is not valid.
        """
        if self.recipe is None:
            return None
        try:
            return load_recipe(self.recipe, field_arguments(self.overrides))
        except InputError as error:
            location = f"{self.file}: row" if self.file else "row"
            raise InputError(f"{location} {self.row}, {self.column}: {error}") from error

    @property
    def stem(self) -> str | None:
        """What its runs are named after, its recipe without the folder or, with overrides, its row and column."""
        if self.recipe is None:
            return None
        if self.overrides:
            return re.sub(r"[^\w.-]+", "-", f"{self.row}-{self.column}")
        return Path(self.recipe.removesuffix(".yaml").removesuffix(".yml")).name


@dataclass(frozen=True)
class PublishedTable:
    """A table as it was published.

    Attributes:
        name: of its file.
        title: what it shows.
        source: where it was published.
        metrics: what its numbers are.
        statistic: what was printed of several runs.
        runs: number of those; None: not stated.
        rows: key -> title, in order.
        columns: likewise.
        cells: by (row, column), for those that the table has.
        comparisons: (column, the column it is to beat).
        notes: sentences that belong below it.
    """

    name: str
    title: str
    source: str
    metrics: tuple[Metric, ...]
    statistic: Statistic
    runs: int | None
    rows: Mapping[str, str]
    columns: Mapping[str, str]
    cells: Mapping[tuple[str, str], Cell]
    comparisons: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()

    @property
    def printed(self) -> bool:
        """Whether any number was published."""
        return any(value is not None for cell in self.cells.values() for value in cell.published)

    def only(self, rows: list[str] | None) -> PublishedTable:
        """The table with these rows alone, in its own order; None: all.

        Raises:
            InputError: a row that it does not have.
        """
        if rows is None:
            return self
        for row in rows:
            if row not in self.rows:
                raise unknown(f"row of {self.name}", row, self.rows)
        kept = {key: title for key, title in self.rows.items() if key in rows}
        cells = {location: cell for location, cell in self.cells.items() if cell.row in kept}
        return replace(self, rows=kept, cells=cells)


def table_names() -> list[str]:
    """The tables that come with regard."""
    folder = resources.files("regard.tables")
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def load_table(name: str | Path) -> PublishedTable:
    """A table that comes with regard, or one of a YAML file.

    Args:
        name: one of `table_names`, or the path of a file that ends in .yaml or .yml. Recipes in such a file are names
            of regard's, or paths from the file's folder.

    Raises:
        InputError: there is no such table, or the file is not one.
    """
    if str(name).endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"there is no table file {path}")
        text, where, base = path.read_text(encoding="utf-8", errors="replace"), str(path), path.parent
    else:
        if name not in table_names():
            raise unknown("table", name, table_names())
        where, base = f"{name}.yaml", None
        text = resources.files("regard.tables").joinpath(where).read_text(encoding="utf-8")
    try:
        return _table(Path(str(name)).stem, read_yaml(text), base, where)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{where}: lists or fields are nested too deep in it to be read") from error


def _table(name: str, content: Any, base: Path | None, where: str) -> PublishedTable:
    content = _fields(content, "a table", _TABLE, {"title", "columns", "rows"})
    names = _typed(content.get("metrics", ["accuracy"]), list, "metrics", "a list of names")
    if not names:
        raise InputError("metrics is empty; name one at least")
    for one in names:
        if _typed(one, str, "one of the metrics", "a name") not in METRICS:
            raise unknown("metric", one, METRICS)
    _once(names, "metrics")
    metrics = tuple(METRICS[one] for one in names)
    notes = _typed(content.get("notes", []), list, "notes", "a list of sentences")
    statistic = content.get("statistic", "single")
    if statistic not in get_args(Statistic):
        raise unknown("statistic", statistic, get_args(Statistic))
    runs = content.get("runs")
    if runs is not None and (type(runs) is not int or runs < 1):
        raise InputError(f"runs is {runs!r}; expected how many there were, at least 1")
    columns = _columns(content["columns"])
    checked, source = content.get("checked", True), _text(content.get("source"), "source")
    rows, cells = {}, {}
    for key, row in _mapping(content["rows"], "rows").items():
        row = _fields(row, f"row {key}", {*_ROW, *columns}, {"title"})
        rows[key] = _text(row["title"], f"the title of row {key}")
        common = _mapping(row.get("overrides", {}), f"row {key}: overrides")
        for column in (column for column in columns if column in row):
            location = f"row {key}, {column}"
            cell = _fields(row[column], location, _CELL, set())
            cells[key, column] = Cell(
                row=key,
                column=column,
                published=_published(cell.get("published"), metrics, location),
                checked=_typed(cell.get("checked", checked), bool, f"{location}: checked", "true or false"),
                recipe=_recipe(cell.get("recipe"), base, location),
                overrides=_overrides(cell, common, f"{source}; {rows[key]}, {columns[column]}", location),
                teacher=_teacher(cell.get("teacher"), column, row, location),
                note=_text(cell.get("note"), f"{location}: note"),
                file=where,
            )
    _no_circle(cells)
    return PublishedTable(
        name=name,
        title=_text(content["title"], "title"),
        source=source,
        metrics=metrics,
        statistic=statistic,
        runs=runs,
        rows=rows,
        columns=columns,
        cells=cells,
        comparisons=_comparisons(content.get("comparisons", []), columns),
        notes=tuple(_text(one, "one of the notes") for one in notes if one is not None),
    )


def _comparisons(value: Any, columns: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for pair in value if isinstance(value, list) else [value]:
        named = [str(column) for column in pair] if isinstance(pair, list) else []
        if len(named) != 2 or named[0] == named[1]:
            raise InputError(f"comparisons: {pair!r} is no pair of two columns, such as [at, student]")
        for column in named:
            if column not in columns:
                raise unknown("column in comparisons", column, columns)
        pairs.append((named[0], named[1]))
    _once([f"[{column}, {against}]" for column, against in pairs], "comparisons")
    return tuple(pairs)


def _teacher(name: Any, column: str, row: Mapping[str, Any], location: str) -> str | None:
    if name is None:
        return None
    if str(name) in _ROW or str(name) not in row:
        raise InputError(f"{location}: its teacher is in column {name!r}, which the row does not have")
    if str(name) == column:
        raise InputError(f"{location}: it is its own teacher; name another column")
    return str(name)


def _no_circle(cells: Mapping[tuple[str, str], Cell]) -> None:
    """Teachers are trained before students, so that of a circle none could be the first."""
    teachers = {(row, column): [(row, cell.teacher)] if cell.teacher else [] for (row, column), cell in cells.items()}
    try:
        TopologicalSorter(teachers).prepare()
    except CycleError as error:
        circle = error.args[1][:-1]
        names = ", ".join(sorted(column for _, column in circle))
        raise InputError(
            f"row {circle[0][0]}: the teachers of {names} go in a circle; one of these has to have none"
        ) from error


def _columns(value: Any) -> dict[str, str]:
    columns = _mapping(value, "columns")
    for key, title in columns.items():
        if key in _ROW:
            raise InputError(f"a column cannot be called {key!r}, which is a field of the row; give it another key")
        if title is None:
            raise InputError(f"columns: {key} lacks a title")
    return {key: _text(title, f"the title of column {key}") for key, title in columns.items()}


def _text(value: Any, what: str) -> str:
    """Nothing is no text."""
    if value is None:
        return ""
    if type(value) not in (str, int, float):
        raise InputError(f"{what} is {value!r}; expected text, in quotes if need be, or a number")
    return str(value)


def _once(names: list[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{what}: {name} is given twice")


def _typed(value: Any, kind: type[T], what: str, expected: str) -> T:
    if not isinstance(value, kind):
        raise InputError(f"{what} is {value!r}; expected {expected}")
    return value


def _mapping(value: Any, what: str) -> dict[str, Any]:
    return {str(key): content for key, content in _typed(value, dict, what, "fields with values").items()}


def _fields(value: Any, what: str, known: set[str], needed: set[str]) -> dict[str, Any]:
    value = _mapping(value, what)
    for name in value:
        if name not in known:
            raise unknown(f"field of {what}", name, known)
    if missing := sorted(name for name in needed if value.get(name) is None):
        raise InputError(f"{what} lacks {', '.join(missing)}")
    return value


def _published(value: Any, metrics: Sequence[Metric], location: str) -> tuple[float | None, ...]:
    values = value if isinstance(value, list) else [value] * (len(metrics) if value is None else 1)
    if len(values) != len(metrics):
        raise InputError(f"{location}: published is {value!r}; expected {len(metrics)} numbers, one for each metric")
    for one, kind in zip(values, metrics, strict=True):
        most = 1e6 if kind.is_cost else 100
        if one is not None and (type(one) not in (int, float) or not 0 <= one <= most):
            raise InputError(f"{location}: published is {one!r}; expected {kind.title}, from 0 to {most:g}")
    return tuple(None if one is None else float(one) for one in values)


def _overrides(cell: Mapping[str, Any], common: Mapping[str, Any], source: str, location: str) -> dict[str, Any]:
    overrides = _mapping(cell.get("overrides", {}), f"{location}: overrides")
    if cell.get("recipe") is None:
        if overrides:
            raise InputError(f"{location}: there are overrides, and no recipe whose fields they replace")
        return {}
    overrides = {**common, **overrides}
    return {"source": source, **overrides} if overrides else {}


def _recipe(name: Any, base: Path | None, location: str) -> str | None:
    if name is None:
        return None
    name = _typed(name, str, f"{location}: recipe", "the name or the path of one")
    return str(base / name) if base is not None and name.endswith((".yaml", ".yml")) else name
