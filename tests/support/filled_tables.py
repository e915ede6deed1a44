"""Made-up filled tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from regard.tables.filled import FilledCell, FilledTable, SeedRun
from regard.tables.metrics import METRICS
from regard.tables.overrides import Overrides
from regard.tables.published import Cell, PublishedTable

NASTY = "A|B & C <script>alert(1)</script> 100% of_it $x$ #1 {y} ~z^2 \\n *w* `v` [u](t) β"


def table(**changes: Any) -> PublishedTable:
    """A table of accuracies with two rows and two columns."""
    cells = {
        ("cifar10", "se"): Cell("cifar10", "se", (94.57,), recipe="lsas/resnet164-se-cifar10"),
        ("cifar10", "lsas-se"): Cell("cifar10", "lsas-se", (95.01,), recipe="lsas/resnet164-lsas-se-cifar10"),
        ("stl10", "se"): Cell("stl10", "se", (83.81,), checked=False, recipe="lsas/resnet164-se-stl10"),
        ("stl10", "lsas-se"): Cell("stl10", "lsas-se", (None,), note="Printed as a figure only"),
    }
    fields: dict[str, Any] = {
        "name": "lsas-2",
        "title": "ResNet164 with SE and with LSAS-SE",
        "source": "LSAS (arXiv 2305.05200), table 2",
        "metrics": (METRICS["accuracy"],),
        "statistic": "mean",
        "runs": 3,
        "rows": {"cifar10": "CIFAR-10", "stl10": "STL-10"},
        "columns": {"se": "SE", "lsas-se": "LSAS-SE"},
        "cells": cells,
        "comparisons": (("lsas-se", "se"),),
        "notes": ("The paper trains 164 epochs",),
    }
    return PublishedTable(**fields | changes)


def filled(
    published: PublishedTable,
    values: Mapping[tuple[str, str], Sequence[Any]] | None = None,
    *,
    epochs: int = 164,
    overrides: Overrides | None = None,
    **fields: Any,
) -> FilledTable:
    """The table filled by runs with seeds 0, 1, …; a value is a number, or a tuple with one number per metric."""
    cells = {}
    for key, cell in published.cells.items():
        runs = [value if isinstance(value, tuple) else (value,) for value in (values or {}).get(key, ())]
        seeds = tuple(SeedRun(seed, f"{cell.stem}-seed{seed}", run, "0.7.0") for seed, run in enumerate(runs))
        recipe_fields = (None, None, None) if cell.recipe is None else (epochs, 164, "3f2a9c01")
        cells[key] = FilledCell(cell, seeds, *recipe_fields)
    overrides = overrides or (Overrides(epochs / 164) if values else None)
    return FilledTable(published, overrides, "cifar10" if values else "", cells, **fields)


SE = [94.50, 94.61, 94.55, 94.70, 94.44]
LSAS = [94.90, 95.10, 94.95, 95.20, 94.85]


def full() -> FilledTable:
    """Five seeds in the first row, with LSAS-SE above SE for each; no runs in the second."""
    return filled(
        table(),
        {("cifar10", "se"): SE, ("cifar10", "lsas-se"): LSAS},
        others={("cifar10", "--shorten 0.1"): 2},
        excluded={"resnet164-se-cifar10-x": "optimizer.lr is 0.2, the recipe has 0.1"},
    )


def several() -> FilledTable:
    """A table like SA-Net's, with two rows, seven columns and two metrics; one seed has no top-5."""
    names = ("plain", "SE", "CBAM", "SGE", "ECA", "SA", "SA, no shuffle")
    columns = {f"c{i}": name for i, name in enumerate(names)}
    rows = {"resnet50": "ResNet-50", "resnet101": "ResNet-101"}
    cells = {
        (row, column): Cell(row, column, (76.384 + i + 2 * j, 92.908 + i / 4), recipe=f"sanet/{row}-{column}")
        for j, row in enumerate(rows)
        for i, column in enumerate(columns)
    }
    published = table(
        name="sanet-1",
        title="ImageNet-1k",
        source="SA-Net (arXiv 2102.00240), table 1",
        metrics=(METRICS["top1"], METRICS["top5"]),
        statistic="single",
        runs=None,
        rows=rows,
        columns=columns,
        cells=cells,
        comparisons=(("c5", "c0"), ("c5", "c1")),
        notes=(),
    )
    values = {
        ("resnet50", "c0"): [(75.1, 92.1), (75.3, 92.2), (75.2, 92.0)],
        ("resnet50", "c5"): [(76.1, 92.9), (76.3, None), (76.6, 93.1)],
    }
    return filled(published, values, epochs=16, overrides=Overrides(0.1, {"data.train_images": 12_000}))
