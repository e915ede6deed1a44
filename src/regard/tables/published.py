"""Published tables as data: the printed numbers, their source, and the recipe that fills each cell with our own runs.

A table is a YAML file::

    title: ResNet164 with SE and with LSAS-SE
    source: LSAS (arXiv 2305.05200), table 2
    metrics: [accuracy]          # one or more of `metrics.METRICS`
    statistic: mean              # what the numbers are: mean, median, or single
    runs: 3                      # number of runs per number; left out if the source does not state it
    checked: true                # whether the numbers were checked against the source
    columns: {se: SE, lsas-se: LSAS-SE}
    comparisons: [[lsas-se, se]] # a column, and the column that it should beat
    rows:
      cifar10:
        title: CIFAR-10
        se: {published: 94.57, recipe: lsas/resnet164-se-cifar10}
        lsas-se: {published: 95.01, recipe: lsas/resnet164-lsas-se-cifar10, checked: false, note: …}
      wrn:
        title: WRN-16-1
        se: {recipe: lsas/resnet164-se-cifar10, overrides: {model.name: wrn-16-1}}
    notes: [ … ]                 # sentences below the table

`published` is in percent; costs have their own units. With several metrics it is a list with one number per metric,
null if it was not printed. If the recipe of a cell has a teacher, `teacher` is the column of the same row with the
teacher's recipe. `overrides` changes fields of a cell's recipe, by dotted name; that of a row applies to all its cells.
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
        row: key of its row.
        column: key of its column.
        published: one printed number per metric; None if it was not printed.
        checked: whether the numbers were checked against the source.
        recipe: name or path of the recipe that fills it; None: there is none.
        overrides: values of recipe fields by dotted name, including the source.
        teacher: column of the same row with the teacher.
        note: a sentence about the cell.
        file: file of the table, for messages.
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
        """The recipe with its overrides, cached.

        Raises:
            InputError: the recipe does not exist or is not valid.
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
        """The first part of its runs' names: the recipe without folder or, with overrides, row and column."""
        if self.recipe is None:
            return None
        if self.overrides:
            return re.sub(r"[^\w.-]+", "-", f"{self.row}-{self.column}")
        return Path(self.recipe.removesuffix(".yaml").removesuffix(".yml")).name


@dataclass(frozen=True)
class PublishedTable:
    """A published table.

    Attributes:
        name: name of its file.
        title: what it shows.
        source: where it was published.
        metrics: the metrics of its numbers.
        statistic: whether numbers are means, medians or single values.
        runs: number of runs per number; None: not stated.
        rows: key -> title, in order.
        columns: key -> title, in order.
        cells: (row, column) -> cell; not every position needs one.
        comparisons: (column, the column that it should beat).
        notes: sentences below the table.
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
        """The table with only these rows, in its own order; None: all.

        Raises:
            InputError: the table does not have a row.
        """
        if rows is None:
            return self
        for row in rows:
            if row not in self.rows:
                raise unknown(f"row of {self.name}", row, self.rows)
        titles = {key: title for key, title in self.rows.items() if key in rows}
        cells = {position: cell for position, cell in self.cells.items() if cell.row in titles}
        return replace(self, rows=titles, cells=cells)


def table_names() -> list[str]:
    """Names of the tables that come with regard."""
    folder = resources.files("regard.tables")
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def load_table(name: str | Path) -> PublishedTable:
    """Loads a table that comes with regard, or a YAML file.

    Args:
        name: one of `table_names`, or a path that ends in .yaml or .yml. Recipes in such a file are names of regard's
            recipes, or paths relative to the file's folder.

    Raises:
        InputError: the table does not exist, or the file is not valid.
    """
    if str(name).endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"there is no table file {path}")
        text, file, base = path.read_text(encoding="utf-8", errors="replace"), str(path), path.parent
    else:
        if name not in table_names():
            raise unknown("table", name, table_names())
        file, base = f"{name}.yaml", None
        text = resources.files("regard.tables").joinpath(file).read_text(encoding="utf-8")
    try:
        return _table(Path(str(name)).stem, read_yaml(text), base, file)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{file}: lists or fields are nested too deep in it to be read") from error


def _table(name: str, content: Any, base: Path | None, file: str) -> PublishedTable:
    content = _fields(content, "a table", _TABLE, {"title", "columns", "rows"})
    names = _typed(content.get("metrics", ["accuracy"]), list, "metrics", "a list of names")
    if not names:
        raise InputError("metrics is empty; name at least one")
    for metric in names:
        if _typed(metric, str, "one of the metrics", "a name") not in METRICS:
            raise unknown("metric", metric, METRICS)
    _check_unique(names, "metrics")
    metrics = tuple(METRICS[metric] for metric in names)
    notes = _typed(content.get("notes", []), list, "notes", "a list of sentences")
    statistic = content.get("statistic", "single")
    if statistic not in get_args(Statistic):
        raise unknown("statistic", statistic, get_args(Statistic))
    runs = content.get("runs")
    if runs is not None and (type(runs) is not int or runs < 1):
        raise InputError(f"runs is {runs!r}; expected the number of runs, at least 1")
    columns = _columns(content["columns"])
    checked, source = content.get("checked", True), _text(content.get("source"), "source")
    rows, cells = {}, {}
    for key, row in _mapping(content["rows"], "rows").items():
        row = _fields(row, f"row {key}", {*_ROW, *columns}, {"title"})
        rows[key] = _text(row["title"], f"the title of row {key}")
        row_overrides = _mapping(row.get("overrides", {}), f"row {key}: overrides")
        for column in (column for column in columns if column in row):
            location = f"row {key}, {column}"
            cell = _fields(row[column], location, _CELL, set())
            cells[key, column] = Cell(
                row=key,
                column=column,
                published=_published(cell.get("published"), metrics, location),
                checked=_typed(cell.get("checked", checked), bool, f"{location}: checked", "true or false"),
                recipe=_recipe(cell.get("recipe"), base, location),
                overrides=_overrides(cell, row_overrides, f"{source}; {rows[key]}, {columns[column]}", location),
                teacher=_teacher(cell.get("teacher"), column, row, location),
                note=_text(cell.get("note"), f"{location}: note"),
                file=file,
            )
    _check_teachers(cells)
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
        notes=tuple(_text(note, "one of the notes") for note in notes if note is not None),
    )


def _comparisons(value: Any, columns: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for pair in value if isinstance(value, list) else [value]:
        keys = [str(column) for column in pair] if isinstance(pair, list) else []
        if len(keys) != 2 or keys[0] == keys[1]:
            raise InputError(f"comparisons: {pair!r} is not a pair of two columns, such as [at, student]")
        for column in keys:
            if column not in columns:
                raise unknown("column in comparisons", column, columns)
        pairs.append((keys[0], keys[1]))
    _check_unique([f"[{column}, {against}]" for column, against in pairs], "comparisons")
    return tuple(pairs)


def _teacher(name: Any, column: str, row: Mapping[str, Any], location: str) -> str | None:
    if name is None:
        return None
    if str(name) in _ROW or str(name) not in row:
        raise InputError(f"{location}: its teacher is in column {name!r}, which the row does not have")
    if str(name) == column:
        raise InputError(f"{location}: it is its own teacher; name another column")
    return str(name)


def _check_teachers(cells: Mapping[tuple[str, str], Cell]) -> None:
    """Raises InputError for a cycle of teachers, which have to be trained before their students."""
    teachers = {(row, column): [(row, cell.teacher)] if cell.teacher else [] for (row, column), cell in cells.items()}
    try:
        TopologicalSorter(teachers).prepare()
    except CycleError as error:
        cycle = error.args[1][:-1]
        names = ", ".join(sorted(column for _, column in cycle))
        raise InputError(
            f"row {cycle[0][0]}: the teachers of {names} form a cycle; remove the teacher of one of them"
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
    """The value as text; empty for None."""
    if value is None:
        return ""
    if type(value) not in (str, int, float):
        raise InputError(f"{what} is {value!r}; expected text, in quotes if need be, or a number")
    return str(value)


def _check_unique(names: list[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{what}: {name} is given twice")


def _typed(value: Any, kind: type[T], what: str, expected: str) -> T:
    if not isinstance(value, kind):
        raise InputError(f"{what} is {value!r}; expected {expected}")
    return value


def _mapping(value: Any, what: str) -> dict[str, Any]:
    return {str(key): content for key, content in _typed(value, dict, what, "fields with values").items()}


def _fields(value: Any, what: str, allowed: set[str], required: set[str]) -> dict[str, Any]:
    value = _mapping(value, what)
    for name in value:
        if name not in allowed:
            raise unknown(f"field of {what}", name, allowed)
    if missing := sorted(name for name in required if value.get(name) is None):
        raise InputError(f"{what} lacks {', '.join(missing)}")
    return value


def _published(value: Any, metrics: Sequence[Metric], location: str) -> tuple[float | None, ...]:
    values = value if isinstance(value, list) else [value] * (len(metrics) if value is None else 1)
    if len(values) != len(metrics):
        raise InputError(f"{location}: published is {value!r}; expected {len(metrics)} numbers, one for each metric")
    for number, metric in zip(values, metrics, strict=True):
        most = 1e6 if metric.is_cost else 100
        if number is not None and (type(number) not in (int, float) or not 0 <= number <= most):
            raise InputError(f"{location}: published is {number!r}; expected {metric.title}, from 0 to {most:g}")
    return tuple(None if number is None else float(number) for number in values)


def _overrides(cell: Mapping[str, Any], row: Mapping[str, Any], source: str, location: str) -> dict[str, Any]:
    """The overrides of a cell and its row, with the source of the cell."""
    overrides = _mapping(cell.get("overrides", {}), f"{location}: overrides")
    if cell.get("recipe") is None:
        if overrides:
            raise InputError(f"{location}: there are overrides without a recipe; name the recipe or remove them")
        return {}
    overrides = {**row, **overrides}
    return {"source": source, **overrides} if overrides else {}


def _recipe(name: Any, base: Path | None, location: str) -> str | None:
    if name is None:
        return None
    name = _typed(name, str, f"{location}: recipe", "the name or the path of one")
    return str(base / name) if base is not None and name.endswith((".yaml", ".yml")) else name
