"""Published tables as data: what was printed, where, and the recipe that fills each cell with runs of one's own.

A table is a YAML file:

    title: ResNet164 with SE and with LSAS-SE
    source: LSAS (arXiv 2305.05200), table 2
    metrics: [accuracy]          # one or more of `metrics.METRICS`
    statistic: mean              # what was printed of several runs: mean, median, or single
    runs: 3                      # how many those were; left out if not said
    checked: true                # whether the numbers were compared with the source
    columns: {se: SE, lsas-se: LSAS-SE}
    comparisons: [[lsas-se, se]] # a column, and the one it is to beat
    rows:
      cifar10:
        title: CIFAR-10
        se: {published: 94.57, recipe: lsas/resnet164-se-cifar10}
        lsas-se: {published: 95.01, recipe: lsas/resnet164-lsas-se-cifar10, checked: false, note: …}
    notes: [ … ]                 # sentences that belong below it

With several metrics, `published` is a list of as many numbers, null where one was not printed. A cell whose recipe
names a teacher says in which column of its row that teacher's recipe is: `teacher: teacher`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from regard.errors import InputError, one_line, unknown
from regard.tables.metrics import Metric, metric
from regard.training import Recipe, load_recipe, recipe_file

Statistic = Literal["mean", "median", "single"]

_TABLE = {
    *("title", "source", "metrics", "statistic", "runs", "checked"),
    *("columns", "comparisons", "rows", "notes"),
}
_CELL = {"published", "recipe", "teacher", "checked", "note"}


@dataclass(frozen=True)
class Cell:
    """A place in a table.

    Attributes:
        row: its row's key.
        column: its column's key.
        published: what was printed, a number a metric; None where nothing was.
        checked: whether that was compared with the source.
        recipe: the name or the path of the recipe that fills it; None: regard has none.
        teacher: the column of the same row whose network teaches this one.
        note: a sentence about it.
    """

    row: str
    column: str
    published: tuple[float | None, ...]
    checked: bool = True
    recipe: str | None = None
    teacher: str | None = None
    note: str = ""

    def load(self) -> Recipe | None:
        """Its recipe, as the file says it.

        Raises:
            InputError: there is no such recipe, or it is not valid.
        """
        if self.recipe is None:
            return None
        return load_recipe(self.recipe if self.recipe.endswith((".yaml", ".yml")) else recipe_file(self.recipe))

    @property
    def stem(self) -> str | None:
        """The recipe's name without its folder, with which its runs' names begin."""
        return None if self.recipe is None else Path(self.recipe.removesuffix(".yaml").removesuffix(".yml")).name


@dataclass(frozen=True)
class PublishedTable:
    """A table as it was published.

    Attributes:
        name: of its file.
        title: what it shows.
        source: where it was published.
        metrics: what its numbers are.
        statistic: what was printed of several runs.
        runs: how many those were; None: not said.
        rows: key -> title, in order.
        columns: likewise.
        cells: by (row, column); places that were left empty are not there.
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
        cells = {place: cell for place, cell in self.cells.items() if cell.row in kept}
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
        text, where, base = path.read_text(errors="replace"), str(path), path.parent
    else:
        if name not in table_names():
            raise unknown("table", name, table_names())
        where, base = f"{name}.yaml", None
        text = resources.files("regard.tables").joinpath(where).read_text()
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where} is no YAML: {one_line(error)}") from error
    try:
        return _table(Path(str(name)).stem, content, base)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _table(name: str, content: Any, base: Path | None) -> PublishedTable:
    content = _fields(content, "a table", _TABLE, {"title", "columns", "rows"})
    metrics = tuple(metric(one) for one in _strings(content.get("metrics", ["accuracy"]), "metrics"))
    if not metrics:
        raise InputError("metrics is empty; name one at least")
    statistic = content.get("statistic", "single")
    if statistic not in get_args(Statistic):
        raise unknown("statistic", statistic, get_args(Statistic))
    runs = content.get("runs")
    if runs is not None and (type(runs) is not int or runs < 1):
        raise InputError(f"runs is {runs!r}; expected how many there were, at least 1")
    columns = {str(key): str(title) for key, title in _mapping(content["columns"], "columns").items()}
    if "title" in columns:
        raise InputError("a column cannot be called 'title', which is the title of the row; give it another key")
    checked = _truth(content.get("checked", True), "checked")
    rows, cells = {}, {}
    for key, row in _mapping(content["rows"], "rows").items():
        row = _fields(row, f"row {key}", {"title", *columns}, {"title"})
        rows[str(key)] = str(row["title"])
        for column in columns:
            if column in row:
                place = f"row {key}, {column}"
                cell = _fields(row[column], place, _CELL, set())
                cells[str(key), column] = Cell(
                    row=str(key),
                    column=column,
                    published=_published(cell.get("published"), len(metrics), place),
                    checked=_truth(cell["checked"], f"{place}: checked") if "checked" in cell else checked,
                    recipe=_recipe(cell.get("recipe"), base, place),
                    teacher=_teacher(cell.get("teacher"), column, row, place),
                    note=str(cell.get("note", "")),
                )
    return PublishedTable(
        name=name,
        title=str(content["title"]),
        source=str(content.get("source", "")),
        metrics=metrics,
        statistic=statistic,
        runs=runs,
        rows=rows,
        columns=columns,
        cells=cells,
        comparisons=_comparisons(content.get("comparisons", []), columns),
        notes=tuple(_strings(content.get("notes", []), "notes")),
    )


def _comparisons(value: Any, columns: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    found = []
    for pair in value if isinstance(value, list) else [value]:
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1]:
            raise InputError(f"comparisons: {pair!r} is no pair of two columns, such as [at, student]")
        for column in pair:
            if str(column) not in columns:
                raise unknown("column in comparisons", column, columns)
        found.append((str(pair[0]), str(pair[1])))
    return tuple(found)


def _teacher(name: Any, column: str, row: Mapping[str, Any], place: str) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or name == "title" or name not in row:
        raise InputError(f"{place}: its teacher is in column {name!r}, which the row does not have")
    if name == column:
        raise InputError(f"{place}: it is its own teacher; name another column")
    return name


def _strings(value: Any, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InputError(f"{what} is {value!r}; expected a list of words")
    return value


def _truth(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{what} is {value!r}; expected true or false")
    return value


def _mapping(value: Any, what: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{what} is {value!r}; expected fields with values")
    return value


def _fields(value: Any, what: str, known: set[str], needed: set[str]) -> dict[str, Any]:
    value = {str(field): content for field, content in _mapping(value, what).items()}
    for field in value:
        if field not in known:
            raise unknown(f"field of {what}", field, known)
    if missing := sorted(needed - set(value)):
        raise InputError(f"{what} does not say {', '.join(missing)}")
    return value


def _published(value: Any, count: int, place: str) -> tuple[float | None, ...]:
    values = value if isinstance(value, list) else [value] * (count if value is None else 1)
    if len(values) != count or not all(one is None or type(one) in (int, float) and isfinite(one) for one in values):
        raise InputError(f"{place}: published is {value!r}; expected {count} number{'s' if count > 1 else ''}")
    return tuple(None if one is None else float(one) for one in values)


def _recipe(name: Any, base: Path | None, place: str) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise InputError(f"{place}: recipe is {name!r}; expected the name or the path of one")
    return str(base / name) if base is not None and name.endswith((".yaml", ".yml")) else name
