"""Published tables as data, and one's own runs beside their numbers.

- `table_names`, `load_table`: the published tables, `PublishedTable`, each value a `Cell`.
- `fill`: the runs of a store put into a table, with the same `Overrides`: `FilledTable`, with each `Comparison`,
  `to_records()` and `comparison_records()`; `corrected_together`: several of them, shown together.
- `document`: a filled table as a `Document` with a `Grid` for each table, `to_markdown()` and `to_latex()`;
  `TerminalTable`: to print.
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
