"""Tables and pages of the studies by class: gates of attention modules, and scores of channel groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from rich.table import Table

from regard import figures
from regard.columns import Column
from regard.errors import InputError
from regard.report import captions
from regard.report.records import records_table
from regard.report.template import Repeat, write_page
from regard.studies import GateActivations, GroupScores
from regard.studies.labelled import class_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = 5
"""Default number of classes drawn on a page."""
MOST_CLASSES = len(figures.COLOURS) - 1

Results = Mapping[str, GateActivations | GroupScores]
Charts: TypeAlias = "list[tuple[str, Figure]]"


@dataclass(frozen=True)
class _Text:
    """The title, captions and columns of a study's page."""

    title: str
    lead: str
    caption: str
    details: str
    columns: tuple[Column, ...]


_GATES = _Text(
    "Gates by class",
    captions.GATES_LEAD,
    captions.GATES,
    captions.GATES_DETAILS,
    (
        Column("network", "network"),
        Column("depth", "depth", "count"),
        Column("layer", "layer"),
        Column("channels", "channels", "count"),
        Column("constant_channels", "constant channels", "count"),
        Column("eta_squared", "eta squared", "number", "eta_squared"),
        Column("chance", "by chance", "number"),
        Column("median", "median", "number"),
        Column("quantile_5", "5%", "number"),
        Column("quantile_95", "95%", "number"),
        Column("module", "module"),
    ),
)
_GROUPS = _Text(
    "Channel groups by class",
    captions.GROUPS_LEAD,
    captions.GROUPS,
    captions.GROUPS_DETAILS,
    (
        Column("network", "network"),
        Column("layer", "layer"),
        Column("class", "class"),
        Column("images", "images", "count"),
        Column("whole", "whole image", "percent"),
        Column("mean", "mean of groups", "percent", "group_score"),
        Column("highest_group", "highest group", "count"),
        Column("highest", "its score", "percent"),
        Column("lowest_group", "lowest group", "count"),
        Column("lowest", "its score", "percent"),
        Column("groups", "groups", "count"),
        Column("without_score", "without score", "count"),
    ),
)


def study_records(results: Results) -> list[dict[str, Any]]:
    """The records of all networks, with their names."""
    return [{"network": name, **record} for name, result in results.items() for record in result.to_records()]


def study_table(results: Results) -> Table:
    """`study_records` as a table for a terminal."""
    text = _text(results)
    return records_table(study_records(results), text.columns[len(results) == 1 :], caption=text.caption)


def write_study_html(
    results: Results,
    path: str | Path,
    *,
    labels: Sequence[int] | None = None,
    data: str = "",
    command: str = "",
) -> Path:
    """Writes a study of networks as one self-contained HTML file without script or request, and returns its path.

    Args:
        results: network -> result, all for the same images and the same quantity or target.
        path: the file; its folder is created if needed.
        labels: indices of the classes to draw, at most 7; None: 5 evenly spaced classes.
        data: name of the images.
        command: command that repeats the study.

    Raises:
        InputError: the results do not match, a class was not counted, or the path cannot be written.
    """
    text = _text(results)
    labels = classes_to_draw(results, labels)
    first = next(iter(results.values()))
    gates = {name: result for name, result in results.items() if isinstance(result, GateActivations)}
    groups = {name: result for name, result in results.items() if isinstance(result, GroupScores)}
    names = [class_name(label, first.class_names) for label in labels]
    few, many = min(first.images), max(first.images)
    return write_page(
        "study.html",
        path,
        title=f"{text.title}: {data}" if data else text.title,
        text=text,
        image_facts=[
            ("images", f"{sum(first.images):,}"),
            ("classes", f"{len(first.classes):,}"),
            ("images per class", f"{few:,}" if few == many else f"{few:,} to {many:,}"),
            ("quantity", first.quantity) if isinstance(first, GateActivations) else ("target", first.target),
        ],
        networks={name: i for i, name in enumerate(results)},
        depths=_depths(gates),
        records=[record for record in study_records(results) if record.get("class", names[0]) in names],
        columns=text.columns[len(results) == 1 :],  # without names of networks if there is one
        classes={name: i for i, name in enumerate(["all classes", *names])} if gates else {},
        panels=_layers(gates, labels)
        if gates
        else [(name, _bars(groups, x)) for name, x in zip(names, labels, strict=True)],
        repeats=[Repeat("", command)] if command else [],
    )


def spread_classes(classes: Sequence[int], count: int = CLASSES) -> list[int]:
    """At most `count` of the classes, evenly spaced."""
    count = min(count, len(classes))
    return [classes[(2 * i + 1) * len(classes) // (2 * count)] for i in range(count)]


def classes_to_draw(results: Results, labels: Sequence[int] | None) -> list[int]:
    """The classes to draw: `labels`, or evenly spaced ones.

    Raises InputError for results of different images, a class that was not counted, and too many classes.
    """
    name, first = next(iter(results.items()))
    for other, result in results.items():
        if (result.classes, result.images) != (first.classes, first.images):
            raise InputError(f"{other} was studied on other images than {name}; study them on the same")
    if labels is None:
        return spread_classes(first.classes)
    for label in labels:
        if label not in first.classes:
            raise InputError(f"class {label} is not among those counted: {', '.join(map(str, first.classes))}")
    if not 1 <= len(labels) <= MOST_CLASSES:
        raise InputError(f"{len(labels)} classes to draw; a page has room for 1 to {MOST_CLASSES}")
    return list(dict.fromkeys(labels))


def _text(results: Results) -> _Text:
    quantities = {
        result.quantity if isinstance(result, GateActivations) else result.target for result in results.values()
    }
    if len(quantities) != 1:
        raise InputError(f"results of {' and '.join(sorted(quantities)) or 'no network'}; give those of one quantity")
    return _GATES if isinstance(next(iter(results.values())), GateActivations) else _GROUPS


def _depths(results: Mapping[str, GateActivations]) -> Charts:
    """Eta squared by depth, if any layer has one."""
    lines = {
        name: [{depth: layer.eta_squared for depth, layer in enumerate(result.layers.values(), 1)}]
        for name, result in results.items()
    }
    if all(math.isnan(eta) for (line,) in lines.values() for eta in line.values()):
        return []
    chance = next(iter(results.values())).chance
    figure = figures.curves(lines, xlabel="depth", level=chance, legend=False, markers=True)
    return [("Eta squared by depth; dotted line: expected by chance", figure)]


def _layers(results: Mapping[str, GateActivations], labels: Sequence[int]) -> list[tuple[str, Charts]]:
    """One figure per layer and network; all differences have one scale."""
    layers = [layer for result in results.values() for layer in result.layers.values()]
    lines = [torch.tensor(list(layer.lines(labels).values())) for layer in layers]
    reach = max(float((values - values[0]).nan_to_num(0, 0, 0).abs().max()) for values in lines) or 0.01
    panels: dict[str, Charts] = {layer.name: [] for layer in layers}
    for name, result in results.items():
        for layer in result.layers.values():
            panels[layer.name].append((name, layer.plot(labels, reach=reach, legend=False)))
    return list(panels.items())


def _bars(results: Mapping[str, GroupScores], label: int) -> Charts:
    """One figure per network, all on one scale."""
    estimates = [
        estimate for result in results.values() for estimate in (*result.estimates(label), result.whole_image(label))
    ]
    ends = [end for estimate in estimates for end in (estimate.value, estimate.high) if math.isfinite(end)]
    top = min(1.02, 1.05 * max([0.01, *ends]))
    return [(name, result.plot(label, top=top, style=i)) for i, (name, result) in enumerate(results.items())]
