"""Published tables as data, and our own runs next to their numbers.

- `load_table`: loads one of `table_names`, or a file, as a `PublishedTable` of `Cell` objects.
- `fill`: a `FilledTable` with the runs of a store that have the same `Overrides`, with `Comparison` objects,
  `to_records()` and `comparison_records()`. `corrected_together` corrects the comparisons of several tables together.
- `document`: a filled table as a `Document` of `Grid` objects, with `to_markdown()` and `to_latex()`.
- `TerminalTable`: a filled table for a terminal.
"""

from regard.tables.document import TerminalTable, document
from regard.tables.fill import fill
from regard.tables.filled import Comparison, FilledCell, FilledTable, SeedRun, corrected_together
from regard.tables.grid import Document, Grid
from regard.tables.matching import Match, Matcher, run_name
from regard.tables.metrics import METRICS, Metric
from regard.tables.overrides import Overrides
from regard.tables.published import Cell, PublishedTable, load_table, table_names
from regard.tables.verdict import verdict

__all__ = [
    "METRICS",
    "Cell",
    "Comparison",
    "Document",
    "FilledCell",
    "FilledTable",
    "Grid",
    "Match",
    "Matcher",
    "Metric",
    "Overrides",
    "PublishedTable",
    "SeedRun",
    "TerminalTable",
    "corrected_together",
    "document",
    "fill",
    "load_table",
    "run_name",
    "table_names",
    "verdict",
]
