"""The gates of networks by class and depth: a table for a terminal, and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from regard import figures
from regard.errors import InputError
from regard.report import captions
from regard.report.records import Column
from regard.report.records_table import records_table
from regard.report.studies import drawn_classes, image_facts
from regard.report.template import Repeat, write_page
from regard.studies import GateActivations
from regard.studies.labelled import class_name

_COLUMNS = (
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
)


def gates_records(results: Mapping[str, GateActivations]) -> list[dict[str, Any]]:
    """One record per network and layer, see `GateActivations.to_records`."""
    return [{"network": name, **record} for name, result in results.items() for record in result.to_records()]


def gates_table(results: Mapping[str, GateActivations]) -> Table:
    """The records of networks, by name, for a terminal."""
    return records_table(gates_records(results), _COLUMNS[len(results) == 1 :], caption=captions.GATES)


def write_gates_html(
    results: Mapping[str, GateActivations],
    path: str | Path,
    *,
    title: str,
    names: Sequence[str] = (),
    labels: Sequence[int] | None = None,
    data: str = "",
    command: str = "",
) -> Path:
    """Writes the gates of networks as one self-contained HTML file: no script, no request, light and dark.

    Args:
        results: by name of network; all of the same images, and of the same quantity.
        path: of the file; its folder is made if need be.
        title: of the page.
        names: of the classes.
        labels: of the classes that are drawn, at most 7; None: 5, evenly spread.
        data: name of the images.
        command: that repeats the study.

    Returns:
        The path.

    Raises:
        InputError: results that do not go together, classes that were not counted, or a path that cannot be written.
    """
    labels = drawn_classes(results, labels)
    if len({result.quantity for result in results.values()}) > 1:
        raise InputError("the results are of gates and of outputs; give those of one quantity")
    first = next(iter(results.values()))
    layers = [layer for result in results.values() for layer in result.layers.values()]
    lines = [torch.tensor(list(layer.lines(labels, names).values())) for layer in layers]
    reach = max(float((each - each[0]).abs().max()) for each in lines) or 0.01  # of the differences, on one scale
    depths = {
        name: [{i: layer.eta_squared for i, layer in enumerate(result.layers.values(), 1)}]
        for name, result in results.items()
    }
    by_depth = figures.curves(depths, xlabel="depth", level=first.chance, legend=False, markers=True)
    drawn = [class_name(label, names) for label in labels]
    return write_page(
        "gates.html",
        path,
        title=title,
        image_facts=[*image_facts(first, data), ("quantity", first.quantity)],
        records=gates_records(results),
        columns=_COLUMNS[len(results) == 1 :],  # without names of networks if there is one
        caption=captions.GATES,
        networks={name: i for i, name in enumerate(results)},
        classes={name: i for i, name in enumerate(["all classes", *drawn])},
        depths=[("Eta squared by depth", by_depth)],
        layers=[
            (
                layer,
                [
                    (name, result.layers[layer].plot(labels, names, reach=reach, legend=False))
                    for name, result in results.items()
                    if layer in result.layers
                ],
            )
            for layer in dict.fromkeys(layer.name for layer in layers)
        ],
        repeats=[Repeat("", command)] if command else [],
    )
