"""Reports: pages that need nothing but themselves, and the records and figures that they are drawn from.

- `report_runs`: a `RunsReport` of run folders: networks over their seeds, comparisons, curves, class activation maps,
  published tables; it saves a page. Made of `collect`, a `RunResult` for each run, and `seed_groups`, a
  `SeedGroup` for each network.
- `write_study_html`, `study_table`, `study_records`: gates of networks, and scores of channel groups, by class.
- `write_tables_html`: published tables with our runs beside them, as a page.
- `write_bias_html`, `bias_tables`: bias results of networks on the same images, as a page and for a terminal.
- `explain`: likeliest classes and CAMs of images, as a folder of pictures, records and a page.
- `explanations`: the same as a `Row` for each image with a `Cell` for each class; `explain_batch`: of one batch.
- `changed_images`: what interventions make of some images, a `ChangedImage` each.
- `Gallery`, `DetectionsGallery`: rows on a page; `bias_images`: which images to take.
"""

from regard.report.bias_page import write_bias_html
from regard.report.bias_records import bias_tables
from regard.report.collect import RunResult, collect
from regard.report.detections_gallery import DetectionsGallery
from regard.report.explained import Explained, explain, explain_detections
from regard.report.explanation import Cell, ClassScore, Row, Unreadable, explain_batch, explanations, find_classes
from regard.report.gallery import ChangedImage, Gallery, bias_images, changed_images
from regard.report.records import Note, records_table
from regard.report.runs import RunsReport, report_runs
from regard.report.seeds import SeedGroup, seed_groups
from regard.report.studies import study_records, study_table, write_study_html
from regard.report.tables_page import write_tables_html

__all__ = [
    "Cell",
    "ChangedImage",
    "ClassScore",
    "DetectionsGallery",
    "Explained",
    "Gallery",
    "Note",
    "Row",
    "RunResult",
    "RunsReport",
    "SeedGroup",
    "Unreadable",
    "bias_images",
    "bias_tables",
    "changed_images",
    "collect",
    "explain",
    "explain_batch",
    "explain_detections",
    "explanations",
    "find_classes",
    "records_table",
    "report_runs",
    "seed_groups",
    "study_records",
    "study_table",
    "write_bias_html",
    "write_study_html",
    "write_tables_html",
]
