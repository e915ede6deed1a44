"""Reports: self-contained HTML pages, and the records and figures they show.

- `report_runs`: a `RunsReport` of run folders, with networks over their seeds, comparisons, curves, class activation
  maps and published tables, to be saved as a page. `collect` reads one `RunResult` per run, `seed_groups` joins them
  to one `SeedGroup` per network.
- `write_study_html`, `study_table`, `study_records`: gates of networks, and scores of channel groups, by class.
- `write_tables_html`: a page of published tables with our runs.
- `write_bias_html`, `bias_tables`: bias results of networks on the same images, as a page and for a terminal.
- `explain`: most likely classes and CAMs of images, as a folder of pictures, records and a page; `explain_detections`:
  the same for the detections of a detector.
- `explanations`: one `Row` per image with one `Cell` per class; `explain_batch`: the rows of one batch.
- `changed_images`: one `ChangedImage` per image, with its interventions.
- `Gallery`, `DetectionsGallery`: rows on a page; `bias_images`: chooses the images.
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
