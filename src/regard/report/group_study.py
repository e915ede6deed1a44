"""The study of groups: how much each alone speaks for a class, for a terminal, as JSON and as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from regard.errors import InputError
from regard.formatting import NONE, percent, printable
from regard.report import figures
from regard.report.charts import Chart
from regard.report.studies import class_name, counted, plain, shown_classes
from regard.report.template import Network, write_page
from regard.studies import GroupScores, Moments

_NORMAL = 1.96  # standard errors to either side in a 95% interval


@dataclass(frozen=True)
class GroupStudy:
    """The scores of the groups of one network.

    Attributes:
        network: what it is called.
        found: the scores.
    """

    network: str
    found: GroupScores


class Score(NamedTuple):
    """A mean probability, with the ends of its 95% interval; NaN where not known."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScores:
    """The scores of a class in one network.

    Attributes:
        images: how many.
        whole: with the whole image.
        groups: of each group.
        flat: groups that mask nothing in any image, and have no score.
    """

    images: int
    whole: Score
    groups: tuple[Score, ...]

    @property
    def flat(self) -> int:
        return sum(math.isnan(score.value) for score in self.groups)

    @property
    def order(self) -> list[int]:
        """The groups that have a score, highest first."""
        known = [i for i, score in enumerate(self.groups) if not math.isnan(score.value)]
        return sorted(known, key=lambda i: -self.groups[i].value)

    @property
    def mean(self) -> float:
        """Of the groups."""
        known = [self.groups[i].value for i in self.order]
        return math.fsum(known) / len(known) if known else math.nan


def class_scores(found: GroupScores, label: int) -> ClassScores:
    """The scores of a class, with intervals: mean ± 1.96 standard errors, within 0 to 1."""
    row = found.classes.index(label)

    def scores(moments: Moments) -> list[Score]:
        mean, reach = moments.mean[row], _NORMAL * moments.standard_error[row]
        low, high = (mean - reach).clamp(min=0), (mean + reach).clamp(max=1)
        return [Score(*ends) for ends in torch.stack((mean, low, high), dim=1).tolist()]

    return ClassScores(found.images[row], scores(found.whole)[0], tuple(scores(found.scores)))


def write_groups_html(
    studies: Sequence[GroupStudy],
    path: str | Path,
    *,
    title: str,
    classes: Sequence[str] = (),
    shown: Sequence[int] | None = None,
    data: str = "",
    command: str = "",
) -> Path:
    """Writes a study of groups as one self-contained HTML file: no script, no request, light and dark.

    Args:
        studies: at least one; all of the same classes of images, and for the same target.
        path: of the file, which is written aside and renamed; its folder is made if need be.
        title: of the page.
        classes: names of the labels.
        shown: labels that have figures, at most 7; None: some, evenly spread.
        data: what the images are called.
        command: that repeats the study.

    Returns:
        The path.

    Raises:
        InputError: studies that do not go together, classes that were not counted, or a place that cannot be written.
    """
    first = _checked(studies)
    labels = shown_classes(first.classes, shown)
    names = [class_name(label, classes) for label in labels]
    networks = [Network(study.network, i) for i, study in enumerate(studies)]
    cells = [[class_scores(study.found, label) for study in studies] for label in labels]
    return write_page(
        "groups.html",
        path,
        title=title,
        images=counted(first.images, data),
        target=first.target,
        layers=[f"{study.network}: {study.found.layer}, {study.found.groups} groups" for study in studies],
        networks=networks,
        rows=list(zip(names, cells, strict=True)),
        panels=[(name, _charts(name, own, networks)) for name, own in zip(names, cells, strict=True)],
        flat=any(scores.flat for own in cells for scores in own),
        command=command,
    )


def groups_table(studies: Sequence[GroupStudy], classes: Sequence[str] = ()) -> Table:
    """A row a class and network: the whole image, the groups in the mean, the best and the worst.

    Raises:
        InputError: studies that do not go together.
    """
    first = _checked(studies)
    whose = "label" if first.target == "label" else "class predicted for the whole image"
    caption = (
        f"Mean probability of the {whose} in %: with the whole image, and with the image masked by each group of "
        "channels alone. In brackets 95% intervals."
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("class", overflow="fold")
    table.add_column("network", overflow="fold")
    for heading in ("images", "whole\nimage", "mean of\ngroups", "highest group", "lowest group", "no\nscore"):
        table.add_column(heading, justify="right")
    for label in first.classes:
        for study in studies:
            own = class_scores(study.found, label)
            best, worst = (own.order[0], own.order[-1]) if own.order else (None, None)
            table.add_row(
                Text(printable(class_name(label, classes))),
                Text(printable(study.network)),
                f"{own.images:,}",
                percent(own.whole.value),
                percent(own.mean),
                *(_numbered(own, place) for place in (best, worst)),
                str(own.flat or NONE),
            )
    return table


def groups_record(studies: Sequence[GroupStudy], classes: Sequence[str] = ()) -> Any:
    """The studies as plain numbers: every group of every class.

    Raises:
        InputError: studies that do not go together.
    """
    first = _checked(studies)
    return {
        "target": first.target,
        "networks": [
            {
                "network": study.network,
                "layer": study.found.layer,
                "groups": study.found.groups,
                "classes": {str(label): _class_record(study.found, label, classes) for label in study.found.classes},
            }
            for study in studies
        ],
    }


def _class_record(found: GroupScores, label: int, classes: Sequence[str]) -> dict[str, Any]:
    own = class_scores(found, label)
    row = found.classes.index(label)
    return {
        "name": class_name(label, classes),
        "images": own.images,
        "whole": plain(own.whole.value),
        "scores": plain(found.scores.mean[row]),
        "low": [plain(score.low) for score in own.groups],
        "high": [plain(score.high) for score in own.groups],
        "images_with_a_score": found.scores.count[row].tolist(),
    }


def _checked(studies: Sequence[GroupStudy]) -> GroupScores:
    if not studies:
        raise InputError("no study of groups given; give at least one")
    first = studies[0].found
    for study in studies[1:]:
        if (study.found.target, study.found.classes) != (first.target, first.classes):
            raise InputError(
                f"{study.network} was studied on other classes, or for another target, than {studies[0].network}; "
                "study them on the same images"
            )
    return first


def _numbered(own: ClassScores, place: int | None) -> str:
    if place is None:
        return NONE
    score = own.groups[place]
    interval = "" if math.isnan(score.low) else f" ({percent(score.low)}–{percent(score.high)})"
    return f"{place + 1}: {percent(score.value)}{interval}"


def _charts(name: str, own: Sequence[ClassScores], networks: Sequence[Network]) -> list[Chart]:
    """A figure a network, all on one scale."""
    ends = [
        100 * end for scores in own for score in (*scores.groups, scores.whole) for end in (score.value, score.high)
    ]
    top = min(102.0, 1.05 * max(1.0, *(end for end in ends if math.isfinite(end))))
    charts = []
    for scores, network in zip(own, networks, strict=True):
        bars = [
            figures.Bar(str(i), network.style, *(100 * number for number in score))
            for i, score in enumerate(scores.groups, 1)
        ]
        best = ", ".join(f"group {i + 1} {percent(scores.groups[i].value)}%" for i in scores.order[:3])
        caption = f"{network.name}, {name}: whole image {percent(scores.whole.value)}%; highest: {best or 'none'}"
        svg = figures.columns(bars, 100 * scores.whole.value, top, caption, salt=f"{name} {network.name}")
        charts.append(Chart(network.name, Markup(svg)))
    return charts
