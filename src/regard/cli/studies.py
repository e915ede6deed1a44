"""Shared by `regard gates` and `regard groups`: options, the choice of images by class, and result files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regard import report
from regard.cli.command import Command
from regard.cli.evaluation import ClassifierEvaluation
from regard.cli.inputs import add_networks
from regard.errors import InputError
from regard.files import check_overwritable, write_text
from regard.parser import Parser, strings
from regard.report.studies import MOST_CLASSES, Results, spread_classes
from regard.report.template import MARK


def add_study_options(parser: Parser, *, classes: str, per_class: int | None) -> None:
    """Adds the options for the images and the output folder; `classes` and `per_class` are the defaults."""
    parser.add_argument(
        "--class",
        dest="classes",
        type=strings,
        default=[],
        help=f"classes of the images to use, by name or number; {classes} if not given",
    )
    parser.add_argument(
        "--per-class",
        type=int | None,
        interval="[1, 2^40]",
        default=per_class,
        help="number of images of each class to use, spread evenly; null for all",
    )
    parser.add_argument("--out", help="folder to write to; STUDY-SET if not given")
    add_networks(parser)


@dataclass(frozen=True)
class Sample:
    """The images of a study.

    Attributes:
        data: name and split of the data set.
        indices: indices of the images in the data set.
        labels: labels of the classes to study.
        page_labels: labels of the classes on the page.
    """

    data: str
    indices: list[int]
    labels: list[int]
    page_labels: list[int]


def sample(evaluations: Sequence[ClassifierEvaluation], *, max_classes: int | None = None) -> Sample:
    """Chooses the images to study, the same for all networks, of at most `max_classes` classes without `--class`."""
    options, images = evaluations[0].options, evaluations[0].dataset
    for evaluation in evaluations:
        dataset = evaluation.dataset
        same_images = dataset is images or (
            dataset.classes == images.classes and dataset.fingerprint() == images.fingerprint()
        )
        if not same_images:
            raise InputError("the networks were trained on different data; name the images for all (--data)")
    labels = np.asarray(images.labels)
    available = [int(label) for label in np.unique(labels) if label >= 0]
    if not available:
        raise InputError(f"the images of {images.name} have no classes; name a set that has (--data)")
    selected = spread_classes(available, max_classes or len(available))
    if options.classes:
        selected = list(report.find_classes(options.classes, images.classes, images.name))
    indices: list[int] = []
    for label in selected:
        if label not in available:
            raise InputError(f"{images.name} has no image of class {images.classes[label]!r}")
        class_indices = np.flatnonzero(labels == label)
        total = len(class_indices)
        count = total if options.per_class is None else min(options.per_class, total)
        indices += class_indices[(2 * np.arange(count) + 1) * total // (2 * count)].tolist()
    page_labels = selected if options.classes and len(selected) <= MOST_CLASSES else spread_classes(selected)
    data = " ".join(filter(None, (images.name, images.split)))
    return Sample(data, sorted(indices), selected, page_labels)


def folder_for(study: str, out: str | None, images: Sample) -> Path:
    """The output folder of a study; raises InputError if writing to it would replace files of another kind."""
    folder = Path(out or "-".join([study, *images.data.split()]))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; the study goes to a folder, choose another (--out)")
    check_overwritable(folder / f"{study}.json", f'"command": "regard {study}')
    check_overwritable(folder / f"{study}.html", MARK)
    return folder


def write_study(command: Command, study: str, results: Results, folder: Path, images: Sample, **details: Any) -> None:
    """Writes the page and the JSON file of a study, the latter with `details`, and prints its records."""
    records = report.study_records(results)
    content = {"command": command.line, "data": images.data, "records": records, **details}
    write_text(folder / f"{study}.json", json.dumps(content, allow_nan=False) + "\n")
    path = folder / f"{study}.html"
    page = report.write_study_html(results, path, labels=images.page_labels, data=images.data, command=command.line)
    command.show(records, report.study_table(results))
    command.note(f"page: {page.resolve()}")
