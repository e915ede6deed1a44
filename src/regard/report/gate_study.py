"""The study of gates: how they differ by class and depth, for a terminal, as JSON and as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from regard.errors import InputError
from regard.formatting import NONE, printable
from regard.report import figures
from regard.report.charts import Chart
from regard.report.studies import class_name, counted, plain, shown_classes
from regard.report.template import Network, write_page
from regard.report.wording import listed, number
from regard.studies.gates import LEVELS, GateActivations, LayerGates

_RUNS = 64  # of neighbouring channels in a figure, as many as SA-Net has groups
_STEPS = 60
_LISTED = 4  # layers in a sentence
_QUANTITIES = {"gate": "gate", "output": "mean output"}


@dataclass(frozen=True)
class GateStudy:
    """The gates of one network.

    Attributes:
        network: what it is called.
        found: its gates.
    """

    network: str
    found: GateActivations


@dataclass(frozen=True)
class Depth:
    """A depth on the page: its number from 1, the layer, and a figure a network."""

    number: int
    layer: str
    charts: tuple[Chart, ...]


def write_gates_html(
    studies: Sequence[GateStudy],
    path: str | Path,
    *,
    title: str,
    classes: Sequence[str] = (),
    shown: Sequence[int] | None = None,
    data: str = "",
    command: str = "",
) -> Path:
    """Writes a study of gates as one self-contained HTML file: no script, no request, light and dark.

    Args:
        studies: at least one; all of the same classes of images, and of the same quantity.
        path: of the file, which is written aside and renamed; its folder is made if need be.
        title: of the page.
        classes: names of the labels.
        shown: labels that have a line in the figures, at most 7; None: some, evenly spread.
        data: what the images are called.
        command: that repeats the study.

    Returns:
        The path.

    Raises:
        InputError: studies that do not go together, classes that were not counted, or a place that cannot be written.
    """
    first = _checked(studies)
    labels = shown_classes(first.classes, shown)
    layers = _layers(studies)
    names = [class_name(label, classes) for label in labels]
    networks = [Network(study.network, i) for i, study in enumerate(studies)]
    cells = [[study.found.layers.get(layer) for study in studies] for layer in layers]
    return write_page(
        "gates.html",
        path,
        title=title,
        quantity=_QUANTITIES[first.of],
        images=counted(first.images, data),
        chance=first.chance_share,
        networks=networks,
        keys=[Network("all classes", 0), *(Network(name, i) for i, name in enumerate(names, 1))],
        layers=list(zip(range(1, len(layers) + 1), layers, cells, strict=True)),
        shares=_shares_chart(studies, layers),
        depths=_depths(studies, layers, labels, names),
        notes=_constant(studies),
        wide=_wide(studies),
        share=_share,
        spread=_spread,
        command=command,
    )


def gates_table(studies: Sequence[GateStudy]) -> Table:
    """A row a layer: how far its gates tell classes apart, and the gates of its channels.

    Raises:
        InputError: studies that do not go together.
    """
    first = _checked(studies)
    quantity = _QUANTITIES[first.of]
    caption = (
        f"Share: how much of a {quantity}'s variance over {sum(first.images):,} images is between the "
        f"{len(first.classes)} classes (eta squared, mean over channels); {first.chance_share:.3f} by chance alone. "
        f"Below: the {quantity} of the channels, median, and in brackets 5% to 95% of them."
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("depth", justify="right")
    table.add_column("layer", overflow="fold")
    for study in studies:
        table.add_column(Text(printable(study.network)), justify="right", overflow="fold", min_width=16)
    for i, layer in enumerate(_layers(studies), 1):
        table.add_row(str(i), Text(layer), *(_cell(study.found.layers.get(layer)) for study in studies))
    return table


def gates_record(studies: Sequence[GateStudy], classes: Sequence[str] = (), shown: Sequence[int] | None = None) -> Any:
    """The studies as plain numbers: all of every layer and channel, by class for those shown.

    Args:
        studies: as for `write_gates_html`, like `classes` and `shown`.

    Raises:
        InputError: studies that do not go together, classes that were not counted.
    """
    first = _checked(studies)
    labels = shown_classes(first.classes, shown)
    return {
        "of": first.of,
        "classes": {
            str(label): {"name": class_name(label, classes), "images": count}
            for label, count in zip(first.classes, first.images, strict=True)
        },
        "chance_share": plain(first.chance_share),
        "networks": [
            {
                "network": study.network,
                "layers": [_layer_record(gates, labels) for gates in study.found.layers.values()],
            }
            for study in studies
        ],
    }


def _layer_record(gates: LayerGates, labels: Sequence[int]) -> dict[str, Any]:
    moments = gates.by_class
    deviations = (moments.squares / (moments.count - 1)).sqrt()
    return {
        "layer": gates.name,
        "module": gates.kind,
        "channels": gates.channels,
        "input_channels": gates.order.tolist() if gates.shuffled else None,
        "class_share": plain(gates.class_share),
        "constant_channels": gates.constant_channels,
        "quantiles": {f"{level:g}": plain(float(q)) for level, q in zip(LEVELS, gates.quantiles(), strict=True)},
        "mean": plain(moments.overall),
        "variance_between": plain(moments.between),
        "variance_within": plain(moments.within),
        "eta_squared": plain(moments.eta_squared),
        "by_class": {
            str(label): {
                "mean": plain(moments.row(label)),
                "standard_deviation": plain(deviations[moments.classes.index(label)]),
            }
            for label in labels
        },
    }


def _checked(studies: Sequence[GateStudy]) -> GateActivations:
    if not studies:
        raise InputError("no study of gates given; give at least one")
    first = studies[0].found
    for study in studies[1:]:
        if (study.found.of, study.found.classes) != (first.of, first.classes):
            raise InputError(
                f"{study.network} was studied on other classes, or for another quantity, than {studies[0].network}; "
                "study them on the same images"
            )
    return first


def _layers(studies: Sequence[GateStudy]) -> list[str]:
    """The layers of all networks; those of the first in their order."""
    return list(dict.fromkeys(layer for study in studies for layer in study.found.layers))


def _constant(studies: Sequence[GateStudy]) -> list[str]:
    """Which gates do nothing of their own for an image."""
    said = []
    for study in studies:
        layers = [gates for gates in study.found.layers.values() if gates.constant_channels]
        parts = [f"{gates.constant_channels} of {gates.channels} in {gates.name}" for gates in layers[:_LISTED]]
        if len(layers) > _LISTED:
            parts.append(f"some in {number(len(layers) - _LISTED, 'more layer')}")
        if parts:
            said.append(f"{study.network}: channels whose number is the same for all images: {listed(parts)}.")
    return said


def _wide(studies: Sequence[GateStudy]) -> str:
    most = max(gates.channels for study in studies for gates in study.found.layers.values())
    return f"; of layers with more than {_RUNS} channels, {_RUNS} runs of neighbours" if most > _RUNS else ""


def _cell(gates: LayerGates | None) -> Text:
    return Text(NONE) if gates is None else Text.assemble(_share(gates), "\n", (_spread(gates), "dim"))


def _share(gates: LayerGates) -> str:
    return NONE if math.isnan(gates.class_share) else f"{gates.class_share:.3f}"


def _spread(gates: LayerGates) -> str:
    low, _, middle, _, high = gates.quantiles().tolist()
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def _shares_chart(studies: Sequence[GateStudy], layers: Sequence[str]) -> Chart | None:
    series = []
    for style, study in enumerate(studies):
        own = [(i, study.found.layers[layer]) for i, layer in enumerate(layers, 1) if layer in study.found.layers]
        series.append(figures.Series(style, [i for i, _ in own], [gates.class_share for _, gates in own]))
    if all(math.isnan(y) for one in series for y in one.y):
        return None
    said = "; ".join(
        f"{study.network} {', '.join(f'{y:.3f}' for y in one.y)}" for study, one in zip(studies, series, strict=True)
    )
    chance = studies[0].found.chance_share
    svg = figures.depths(series, chance, f"Share of variance between classes by depth: {said}", "shares by depth")
    return Chart("Share of the variance that is between classes", Markup(svg))


def _depths(
    studies: Sequence[GateStudy], layers: Sequence[str], labels: Sequence[int], names: Sequence[str]
) -> list[Depth]:
    lines = {
        (study.network, layer): _lines(gates, labels)
        for study in studies
        for layer, gates in study.found.layers.items()
    }
    apart = max(float((each - each[0]).abs().max()) for each in map(_runs, lines.values())) or 0.01
    found = []
    for i, layer in enumerate(layers, 1):
        own = [(study.network, study.found.layers[layer]) for study in studies if layer in study.found.layers]
        low = min(float(lines[network, layer].min()) for network, _ in own)
        high = max(float(lines[network, layer].max()) for network, _ in own)
        scale = (low - 0.01, high + 0.01) if high - low < 1e-6 else (low, high)  # constant: some room around it
        charts = []
        for network, gates in own:
            means = lines[network, layer].mean(1).tolist()
            said = "; ".join(f"{name} {mean:.3f}" for name, mean in zip(("all classes", *names), means, strict=True))
            caption = f"{layer} of {network}, mean over channels: {said}"
            each = gates.channels / min(_RUNS, gates.channels)
            unit = "channel" if each == 1 else f"run of {'about ' if each % 1 else ''}{round(each)} channels"
            svg = figures.profiles(
                _profiles(lines[network, layer], scale), scale, apart, unit, caption, f"{layer} {network}"
            )
            charts.append(Chart(f"{network}: {gates.channels} channels of {gates.kind}", Markup(svg)))
        found.append(Depth(i, layer, tuple(charts)))
    return found


def _lines(gates: LayerGates, labels: Sequence[int]) -> Tensor:
    """Means by channel (K + 1, C): of all classes, and of each shown."""
    return torch.stack([gates.by_class.overall, *(gates.by_class.row(label) for label in labels)])


def _profiles(lines: Tensor, scale: tuple[float, float]) -> list[figures.Profile]:
    runs, spread = _runs(lines), _density(lines, scale)
    return [
        figures.Profile(style, runs[style].tolist(), (runs[style] - runs[0]).tolist(), spread[style].tolist())
        for style in range(len(lines))
    ]


def _runs(lines: Tensor) -> Tensor:
    """The means of runs of neighbouring channels (K + 1, R)."""
    return torch.stack([run.mean(1) for run in lines.tensor_split(min(_RUNS, lines.shape[1]), dim=1)], dim=1)


def _density(lines: Tensor, scale: tuple[float, float]) -> Tensor:
    """How densely the channels lie at steps of the scale (K + 1, steps), with a Gaussian kernel of 1/20 of it."""
    low, high = scale
    steps = torch.linspace(low, high, _STEPS, dtype=lines.dtype)
    return (((steps[:, None, None] - lines) / (high - low) * 20).square() / -2).exp().mean(2).T
