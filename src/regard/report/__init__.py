"""Reports: what runs came to, for a terminal and as one page to open anywhere.

- `summarize`: run folders as rows, `Summary`, a network each.
- `terminal_table`: the rows for a terminal.
- `differences`: each network against one of them, on the same test images, and what may be said of it.
- `write_html`: all of it on one self-contained page, with curves and with maps over test images.
"""

from regard.report.differences import Differences, Line, differences
from regard.report.page import write_html
from regard.report.summary import Summary, summarize
from regard.report.terminal import terminal_table

__all__ = ["Differences", "Line", "Summary", "differences", "summarize", "terminal_table", "write_html"]
