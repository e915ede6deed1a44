"""What the commands that study networks by class share: options, the images of the classes, and files."""

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
from regard.files import check_written, write_text
from regard.parser import Parser, strings
from regard.report.studies import MOST_CLASSES, Results, spread_classes
from regard.report.template import MARK


def add_study_options(parser: Parser, *, classes: str, per_class: int | None) -> None:
    """Adds the options that say which images are studied, and where the files go; `classes`: those by default."""
    parser.add_argument(
        "--class",
        dest="classes",
        type=strings,
        default=[],
        help=f"classes to take images of, by name or number; {classes} if not given",
    )
    parser.add_argument(
        "--per-class",
        type=int | None,
        interval="[1, 2^40]",
        default=per_class,
        help="number of images to take of each class, spread evenly; null for all",
    )
    parser.add_argument("--out", help="folder to write; STUDY-SET if not given")
    add_networks(parser)


@dataclass(frozen=True)
class Sample:
    """The images of a study.

    Attributes:
        data: name and split of the data set.
        indices: of the images in it.
        labels: of the classes that are counted.
        drawn: of the classes that the page draws.
    """

    data: str
    indices: list[int]
    labels: list[int]
    drawn: list[int]


def sample(evaluations: Sequence[ClassifierEvaluation], *, most: int | None = None) -> Sample:
    """The images that all networks are studied on.

    Args:
        evaluations: of the networks.
        most: number of classes that are counted without `--class`; None: all.

    Raises:
        InputError: the networks have different images, or images without labels, or none of a class in `--class`.
    """
    options, images = evaluations[0].options, evaluations[0].dataset
    for one in evaluations:
        same = one.dataset is images or (
            one.images.classes == images.classes and one.dataset.fingerprint() == images.fingerprint()
        )
        if not same:
            raise InputError("the networks were trained on different data; name the images for all (--data)")
    labels = np.asarray(images.labels)
    known = [int(label) for label in np.unique(labels) if label >= 0]
    if not known:
        raise InputError(f"the images of {images.name} have no classes; name a set that has (--data)")
    counted = spread_classes(known, most or len(known))
    if options.classes:
        counted = list(report.find_classes(options.classes, images.classes, images.name))
    indices: list[int] = []
    for label in counted:
        if label not in known:
            raise InputError(f"{images.name} has no image of class {images.classes[label]!r}")
        of_class = np.flatnonzero(labels == label)
        count = len(of_class) if options.per_class is None else min(options.per_class, len(of_class))
        indices += of_class[(2 * np.arange(count) + 1) * len(of_class) // (2 * count)].tolist()
    drawn = counted if options.classes and len(counted) <= MOST_CLASSES else spread_classes(counted)
    data = " ".join(filter(None, (images.name, images.split)))
    return Sample(data, sorted(indices), counted, drawn)


def folder_for(study: str, out: str | None, images: Sample) -> Path:
    """The folder of the study.

    Raises:
        InputError: a file has its name, or it holds a file that no study wrote.
    """
    folder = Path(out or "-".join([study, *images.data.split()]))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; the study goes to a folder, choose another (--out)")
    check_written(folder / f"{study}.json", f'"command": "regard {study}')
    check_written(folder / f"{study}.html", MARK)
    return folder


def write_study(command: Command, study: str, results: Results, folder: Path, images: Sample, **details: Any) -> None:
    """Writes the JSON file and the page of a study, and prints its records.

    Args:
        command: that studies.
        study: its name.
        results: by name of network.
        folder: see `folder_for`.
        images: of the study.
        details: what the JSON file has besides the records.
    """
    records = report.study_records(results)
    content = {"command": command.line, "data": images.data, "records": records, **details}
    write_text(folder / f"{study}.json", json.dumps(content, allow_nan=False) + "\n")
    path = folder / f"{study}.html"
    page = report.write_study_html(results, path, labels=images.drawn, data=images.data, command=command.line)
    command.show(records, report.study_table(results))
    command.note(f"page: {page.resolve()}")
