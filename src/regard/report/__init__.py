"""Reports: pages that need nothing but themselves, and the records and figures that they are drawn from.

- `report_runs`: a `RunsReport` of run folders: networks over their seeds, comparisons, curves, class activation maps,
  published tables; it saves a page. Made of `collect`, `RunResult`s, and `seed_groups`, `SeedGroup`s.
- `write_study_html`, `study_table`, `study_records`: gates of networks, and scores of channel groups, by class.
- `write_tables_html`: published tables with our runs beside them, as a page.
- `write_bias_html`, `bias_table`, `results_table`, `comparison_table`: results of networks on the same images, as a
  page and for a terminal.
- `explain`: what a network makes of images and where it looks in them, as a folder of pictures, numbers and a page.
- `explanations`: the same, an image at a time and without files.
"""

from regard.report.bias_page import write_bias_html
from regard.report.collect import RunResult, collect
from regard.report.explained import Explained, explain
from regard.report.explanation import Unreadable, explanations, find_classes
from regard.report.gallery import Cell, ClassScore, Gallery, Row
from regard.report.runs_page import RunsReport, report_runs
from regard.report.seeds import SeedGroup, seed_groups
from regard.report.sights import Sight, View, choose_sights, make_sight
from regard.report.studies import study_records, study_table, write_study_html
from regard.report.tables_page import write_tables_html
from regard.report.terminal import bias_table, comparison_table, records_table, results_table

__all__ = [
    "study_records",
    "study_table",
    "write_study_html",
    "Cell",
    "ClassScore",
    "Explained",
    "Gallery",
    "Row",
    "RunResult",
    "RunsReport",
    "SeedGroup",
    "Sight",
    "Unreadable",
    "View",
    "bias_table",
    "choose_sights",
    "collect",
    "comparison_table",
    "explain",
    "explanations",
    "find_classes",
    "make_sight",
    "records_table",
    "report_runs",
    "results_table",
    "seed_groups",
    "write_bias_html",
    "write_tables_html",
]
