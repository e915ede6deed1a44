"""What the commands that study networks by class share: their options, the images of the classes, what they write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from regard import report
from regard.cli.evaluations import Evaluation, add_evaluation_options
from regard.console import Console
from regard.data import ImageDataset
from regard.errors import InputError
from regard.files import check_written, write_text
from regard.formatting import printable
from regard.report.explanation import find_classes
from regard.report.template import MARK
from regard.terminal import listed
from regard.training import RecipeParser


def add_study_options(parser: RecipeParser, *, per_class: int | None) -> None:
    """Adds what images a study is of, and where it goes."""
    parser.add_argument("--classes", type=str, default="", help="of the images: names or numbers, with commas; or all")
    parser.add_argument(
        "--per_class",
        type=int | None,
        default=per_class,
        help="take so many images of each class, evenly spread; or all",
    )
    parser.add_argument(
        "--out", type=str | None, default=None, help="the folder that is written; STUDY-SET if not given"
    )
    add_evaluation_options(parser)


@dataclass(frozen=True)
class Chosen:
    """The images of a study.

    Attributes:
        places: of the images in their set.
        labels: of the classes that are counted.
        shown: of those that the page shows.
    """

    places: list[int]
    labels: list[int]
    shown: list[int]


def choose(found: Sequence[Evaluation], *, most: int | None = None) -> Chosen:
    """The images that all networks are tried on.

    Args:
        found: the networks.
        most: classes that are counted if nobody asked for any; None: all.

    Raises:
        InputError: the networks have different images, which have no labels, or none of a class asked for.
    """
    options, images = found[0].options, found[0].dataset
    if not all(_same(images, evaluation.dataset) for evaluation in found):
        raise InputError("the networks were trained on different data; name the images for all (--data)")
    if options.per_class is not None and options.per_class < 1:
        raise InputError(f"--per_class {options.per_class}; expected at least 1")
    labels = np.asarray(images.labels)
    known = [int(label) for label in np.unique(labels) if label >= 0]
    if not known:
        raise InputError(f"the images of {images.name} have no classes; name a set that has (--data)")
    counted = report.some_classes(known, most or len(known))
    if asked := listed(options.classes):
        counted = list(find_classes(asked, images.classes, images.name))
    for label in counted:
        if label not in known:
            raise InputError(f"{images.name} has no image of class {images.classes[label]!r}")
    places: list[int] = []
    for label in counted:
        own = np.flatnonzero(labels == label)
        count = len(own) if options.per_class is None else min(options.per_class, len(own))
        places += own[(2 * np.arange(count) + 1) * len(own) // (2 * count)].tolist()
    few = asked and len(counted) <= report.MOST_SHOWN
    return Chosen(sorted(places), counted, counted if few else report.some_classes(counted))


def _same(first: ImageDataset, second: ImageDataset) -> bool:
    """Whether two sets are the same images of the same classes."""
    return first is second or (first.classes == second.classes and first.fingerprint() == second.fingerprint())


def images_of(evaluation: Evaluation) -> str:
    """What the images of a network are called."""
    return " ".join(filter(None, (evaluation.images.name, evaluation.images.split)))


def folder_for(study: str, options: Namespace, evaluation: Evaluation) -> Path:
    """Where the study goes.

    Raises:
        InputError: there is a file in its place, or one in it that no study wrote would be lost.
    """
    folder = Path(options.out or "-".join(filter(None, (study, evaluation.images.name, evaluation.images.split))))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; the study goes to a folder, choose another (--out)")
    check_written(folder / f"{study}.json", f'"command": "regard {study}')
    check_written(folder / f"{study}.html", MARK)
    return folder


def write_json(path: Path, content: Any) -> None:
    """Writes a study as JSON, aside first and then renamed."""
    write_text(path, json.dumps(content, allow_nan=False) + "\n")


@contextmanager
def progress(console: Console, name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar in a terminal, told what is done."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(printable(name), total=total)
        yield lambda done: bar.update(task, completed=done)
