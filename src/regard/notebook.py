"""Records as HTML tables: how results show themselves in a notebook.

A result with `to_records` inherits `Tabular`. For records of your own there is `Records`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from regard.formatting import NONE, interval, large, number, p_value, printable

if TYPE_CHECKING:
    from jinja2 import Template

MOST_ROWS = 60

_P_VALUES = ("p", "p_adjusted")
_VALUES = ("value", "difference", "mean")  # whose interval is `low` to `high`
_NAMES = {"p_adjusted": "adjusted p", "n": "n"}
_TABLE = """\
<div style="overflow-x: auto">
<table>
{% if caption %}
<caption style="text-align: left">{{ caption }}</caption>
{% endif %}
<thead>
<tr>
{% for column in columns %}
<th style="text-align: {{ column.align }}">{{ column.name }}</th>
{% endfor %}
</tr>
</thead>
<tbody>
{% for record in records %}
<tr>
{% for column in columns %}
{% set text, ends = column.texts(record) %}
<td style="text-align: {{ column.align }}{% if not column.wraps %}; white-space: nowrap{% endif %}">{{ text }}
{% if ends %}
<br><small>{{ ends }}</small>
{% endif %}
</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
{% if omitted %}
<p><small>{{ omitted }} more rows; to_records() has all.</small></p>
{% endif %}
</div>
"""


class Tabular:
    """A result that shows its records as a table in a notebook."""

    _columns: ClassVar[tuple[str, ...]] = ()
    """Keys of the records that are shown; empty: all."""

    def to_records(self) -> list[dict[str, Any]]:
        """Flat dicts, JSON-ready."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return records_html(self.to_records(), self._columns)


class Records(list[dict[str, Any]]):
    """A list of flat dicts that shows itself as a table in a notebook."""

    def _repr_html_(self) -> str:
        return records_html(self)


def records_html(
    records: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), *, caption: str = "", rows: int = MOST_ROWS
) -> str:
    """An HTML table of flat dicts, a row for each.

    A number with an interval, `key_low` to `key_high` (or `low` to `high` of `value`, `difference` or `mean`), has it
    below in small type. Columns without any value are left out, and text that is the same in all of several rows is in
    the caption. All text is escaped.

    Args:
        records: flat dicts; values that are dicts are left out.
        columns: keys, in this order; empty: all, in the order of the records.
        caption: more text above the table.
        rows: at most; how many more there are is said below.
    """
    chosen = list(_columns(records, columns))
    same = [column for column in chosen if len(records) > 1 and column.is_same(records)]
    parts = [f"{column.name} {column.texts(records[0])[0]}" for column in same]
    return _template().render(
        caption=", ".join(filter(None, (printable(caption), *parts))),
        columns=[column for column in chosen if column not in same],
        records=records[:rows],
        omitted=max(0, len(records) - rows),
    )


class _Column(NamedTuple):
    """A key of the records, and the keys of its interval."""

    key: str
    ends: tuple[str, str] | None
    is_text: bool

    @property
    def name(self) -> str:
        return printable(_NAMES.get(self.key, self.key.replace("_", " ")))

    @property
    def align(self) -> str:
        return "left" if self.is_text else "right"

    @property
    def wraps(self) -> bool:
        return self.is_text and self.key != "significant"

    def is_same(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Whether it is one text in all records."""
        first = records[0].get(self.key)
        return isinstance(first, str) and all(record.get(self.key) == first for record in records)

    def texts(self, record: Mapping[str, Any]) -> tuple[str, str]:
        """The value and its interval, as text."""
        value = record.get(self.key)
        if self.key == "significant":
            return "not tested" if value is None else "significant" if value else "not significant", ""
        if self.key in _P_VALUES:
            return p_value(value), ""
        low, high = (record.get(end) for end in self.ends or ("", ""))
        known = _known(low) and _known(high)
        return _text(value), interval(low, high, _text) if known else ""


def _columns(records: Sequence[Mapping[str, Any]], chosen: Sequence[str]) -> Iterator[_Column]:
    values: dict[str, list[Any]] = {}
    for record in records:
        for key, value in record.items():
            values.setdefault(key, []).append(value)
    plain = next((key for key in _VALUES if key in values), None) if {"low", "high"} <= values.keys() else None
    ends = {key: (f"{key}_low", f"{key}_high") for key in values if f"{key}_low" in values and f"{key}_high" in values}
    if plain is not None:
        ends[plain] = ("low", "high")
    hidden = {end for pair in ends.values() for end in pair}
    for key in chosen or [key for key in values if key not in hidden]:
        known = [value for value in values.get(key, ()) if _known(value)]
        if (known or key == "significant") and not any(isinstance(value, Mapping) for value in known):
            yield _Column(key, ends.get(key), key == "significant" or any(isinstance(one, str | bool) for one in known))


def _known(value: Any) -> bool:
    return value is not None and value != "" and not (isinstance(value, float) and math.isnan(value))


def _text(value: Any) -> str:
    if not _known(value):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return large(value).replace("-", "−")
    if isinstance(value, float):
        return number(value) if abs(value) < 1e-12 or 1e-3 <= abs(value) < 1e3 else f"{value:.3g}".replace("-", "−")
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or NONE
    return printable(value)


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TABLE)
