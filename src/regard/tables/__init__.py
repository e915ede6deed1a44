"""The papers' tables as data, and one's own runs beside their numbers.

- `table_names`, `load_table`: the published tables, `PublishedTable` with a `Cell` each place.
- `fill`: the runs of a store put into a table, in one `Setting`: `FilledTable`.
- `describe`, `paired_difference`, `verdict`: the statistics of it, and what may be said.
- `terminal_table`, `markdown`, `latex`, `csv_text`, `comparisons_csv`: the table written down.
"""

from regard.tables.comma_separated import comparisons_csv, csv_text
from regard.tables.filled import FilledCell, FilledComparison, FilledTable, SeedValue
from regard.tables.filling import fill
from regard.tables.latex import latex
from regard.tables.markdown import markdown
from regard.tables.matching import Match, Matcher, run_name
from regard.tables.metrics import METRICS, Metric
from regard.tables.published import Cell, PublishedTable, load_table, table_names
from regard.tables.setting import Setting
from regard.tables.statistics import PairedDifference, Statistics, describe, paired_difference
from regard.tables.terminal import terminal_table
from regard.tables.verdict import Verdict, verdict

__all__ = [
    "Cell",
    "FilledCell",
    "FilledComparison",
    "FilledTable",
    "METRICS",
    "Match",
    "Matcher",
    "Metric",
    "PairedDifference",
    "PublishedTable",
    "SeedValue",
    "Setting",
    "Statistics",
    "Verdict",
    "comparisons_csv",
    "csv_text",
    "describe",
    "fill",
    "latex",
    "load_table",
    "markdown",
    "paired_difference",
    "run_name",
    "table_names",
    "terminal_table",
    "verdict",
]
