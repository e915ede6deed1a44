"""Reports: what runs came to, for a terminal and as one page to open anywhere.

- `summarize`: run folders as rows, `Summary`, a network each.
- `terminal_table`: the rows for a terminal.
- `differences`: each network against one of them, on the same test images, and what may be said of it.
- `write_html`: all of it on one self-contained page, with curves and with maps over test images.
- `report_runs`: such a page of all runs in some folders, by networks with several seeds; made of `find_runs`,
  `seed_groups`, which gives a `SeedGroup` a network, and `write_runs_html`.
- `write_gates_html`, `gates_table`, `gates_records`: gates of networks by class and depth.
- `write_groups_html`, `groups_table`, `groups_records`: scores of channel groups by class.
- `write_tables_html`: published tables with our runs beside them, as such a page.
- `write_bias_html`, `bias_table`, `results_table`, `comparison_table`: results of networks on the same
  images, as such a page and for a terminal.
- `choose_sights`, `make_sight`: which images that page shows, and with what.
- `explain`: what a network makes of images and where it looks in them, as a folder of pictures, numbers and a page.
- `explanations`: the same, an image at a time and without files.
"""

from regard.report.bias_page import write_bias_html
from regard.report.differences import Differences, Line, differences
from regard.report.explained import Explained, explain
from regard.report.explanation import Unreadable, explanations, find_classes
from regard.report.found import Found, find_runs
from regard.report.gallery import Cell, ClassScore, Gallery, Row
from regard.report.gates_page import gates_records, gates_table, write_gates_html
from regard.report.groups_page import groups_records, groups_table, write_groups_html
from regard.report.page import write_html, write_runs_html
from regard.report.runs import report_runs
from regard.report.seed_groups import SeedGroup, seed_groups
from regard.report.sights import Sight, View, choose_sights, make_sight
from regard.report.summary import Summary, summarize
from regard.report.tables_page import write_tables_html
from regard.report.terminal import bias_table, comparison_table, results_table, terminal_table

__all__ = [
    "Cell",
    "ClassScore",
    "Gallery",
    "Row",
    "Unreadable",
    "Differences",
    "Explained",
    "Found",
    "Line",
    "SeedGroup",
    "Sight",
    "Summary",
    "View",
    "bias_table",
    "choose_sights",
    "comparison_table",
    "differences",
    "explain",
    "explanations",
    "find_classes",
    "find_runs",
    "gates_records",
    "gates_table",
    "groups_records",
    "groups_table",
    "make_sight",
    "report_runs",
    "results_table",
    "seed_groups",
    "summarize",
    "terminal_table",
    "write_bias_html",
    "write_gates_html",
    "write_groups_html",
    "write_html",
    "write_runs_html",
    "write_tables_html",
]
