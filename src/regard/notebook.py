"""HTML tables of records, as which a notebook displays results.

Results with `to_records` inherit from `Tabular`. `Records` displays records of your own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from regard.columns import Record, columns_of
from regard.formatting import printable

if TYPE_CHECKING:
    from jinja2 import Template

MOST_ROWS = 60

_TABLE = """\
<div style="overflow-x: auto">
<table>
{% if caption %}
<caption style="text-align: left">{{ caption }}</caption>
{% endif %}
<thead>
<tr>
{% for column in columns %}
<th style="text-align: {{ "left" if column.is_text else "right" }}">{{ column.label }}</th>
{% endfor %}
</tr>
</thead>
<tbody>
{% for record in records %}
<tr>
{% for column in columns %}
{% set text, ends = column.texts(record) %}
{% set wrap = "" if column.kind == "text" else "; white-space: nowrap" %}
<td style="text-align: {{ "left" if column.is_text else "right" }}{{ wrap }}">{{ text }}
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
    """Base class of results that a notebook displays as a table of their records."""

    _columns: ClassVar[tuple[str, ...]] = ()
    """Keys of the displayed columns; empty: all."""

    def to_records(self) -> list[dict[str, Any]]:
        """Flat dicts, JSON-ready."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return records_html(self.to_records(), self._columns)


class Records(list[dict[str, Any]]):
    """A list of flat dicts that a notebook displays as a table."""

    def _repr_html_(self) -> str:
        return records_html(self)


def records_html(
    records: Sequence[Record], columns: Sequence[str] = (), *, caption: str = "", rows: int = MOST_ROWS
) -> str:
    """An HTML table with one row per flat dict.

    The interval of a number, `key_low` to `key_high` (or `low` to `high` for `value`, `difference` and `mean`), is
    below it in small type. Columns without a value are left out. Text that is equal in all rows moves to the caption.
    All text is escaped.

    Args:
        records: flat dicts; values that are dicts are left out.
        columns: keys in the order of the columns; empty: all keys, in the order of the records.
        caption: text above the table.
        rows: largest number of rows; a line below the table gives the number of the others.
    """
    filled = columns_of(records, columns)
    constant = [column for column in filled if len(records) > 1 and _same_text(records, column.key)]
    parts = [f"{column.label} {column.texts(records[0])[0]}" for column in constant]
    return _template().render(
        caption=", ".join(filter(None, (printable(caption), *parts))),
        columns=[column for column in filled if column not in constant],
        records=records[:rows],
        omitted=max(0, len(records) - rows),
    )


def _same_text(records: Sequence[Record], key: str) -> bool:
    first = records[0].get(key)
    return isinstance(first, str) and all(record.get(key) == first for record in records)


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TABLE)
