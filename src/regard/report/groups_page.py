"""The scores of channel groups by class: a table for a terminal, and a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from regard.errors import InputError
from regard.report import captions
from regard.report.records import Column
from regard.report.records_table import records_table
from regard.report.studies import drawn_classes, image_facts
from regard.report.template import Repeat, write_page
from regard.studies import GroupScores
from regard.studies.labelled import class_name

_COLUMNS = (
    Column("network", "network"),
    Column("class", "class"),
    Column("images", "images", "count"),
    Column("whole", "whole image", "percent"),
    Column("mean", "mean of groups", "percent", "group_score"),
    Column("highest_group", "highest group", "count"),
    Column("highest", "its score", "percent"),
    Column("lowest_group", "lowest group", "count"),
    Column("lowest", "its score", "percent"),
    Column("without_score", "groups without score", "count"),
)


def groups_records(results: Mapping[str, GroupScores], names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One record per class and network, see `GroupScores.summary`."""
    summaries = [{"network": name, **record} for name, result in results.items() for record in result.summary(names)]
    order = [class_name(label, names) for label in next(iter(results.values())).classes] if results else []
    return sorted(summaries, key=lambda record: order.index(record["class"]))


def groups_table(results: Mapping[str, GroupScores], names: Sequence[str] = ()) -> Table:
    """The records of networks, by name, for a terminal."""
    return records_table(groups_records(results, names), _COLUMNS[len(results) == 1 :], caption=captions.GROUPS)


def write_groups_html(
    results: Mapping[str, GroupScores],
    path: str | Path,
    *,
    title: str,
    names: Sequence[str] = (),
    labels: Sequence[int] | None = None,
    data: str = "",
    command: str = "",
) -> Path:
    """Writes the scores of groups as one self-contained HTML file, see `write_gates_html`.

    Args:
        results: by name of network; all of the same images, and for the same target.
        path: of the file; its folder is made if need be.
        title: of the page.
        names: of the classes.
        labels: of the classes on the page, at most 7; None: 5, evenly spread.
        data: name of the images.
        command: that repeats the study.

    Returns:
        The path.

    Raises:
        InputError: results that do not go together, classes that were not counted, or a path that cannot be written.
    """
    labels = drawn_classes(results, labels)
    first = next(iter(results.values()))
    if any(result.target != first.target for result in results.values()):
        raise InputError("the results are for labels and for predicted classes; give those for one target")
    drawn = [class_name(label, names) for label in labels]
    return write_page(
        "groups.html",
        path,
        title=title,
        image_facts=[
            *image_facts(first, data),
            ("class whose probability is the score", first.target),
            ("layer", [(f"{result.layer}, {result.groups} groups", name) for name, result in results.items()]),
        ],
        records=[record for record in groups_records(results, names) if record["class"] in drawn],
        columns=_COLUMNS[len(results) == 1 :],  # without names of networks if there is one
        caption=captions.GROUPS,
        networks={name: i for i, name in enumerate(results)},
        classes=[(class_name(label, names), _panels(results, label)) for label in labels],
        repeats=[Repeat("", command)] if command else [],
    )


def _panels(results: Mapping[str, GroupScores], label: int) -> list[tuple[str, Any]]:
    """A figure for each network, all on one scale."""
    estimates = [one for result in results.values() for one in (*result.estimates(label), result.whole_image(label))]
    ends = [end for one in estimates for end in (one.value, one.high) if math.isfinite(end)]
    top = min(1.02, 1.05 * max([0.01, *ends]))
    return [(name, result.plot(label, top=top, style=i)) for i, (name, result) in enumerate(results.items())]
