"""Test images with each network's map over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from regard.bias import Report, measure, scaled
from regard.data import InMemoryDataset, create_loader
from regard.data.random import RandomStream
from regard.errors import InputError
from regard.logits import predicted_classes
from regard.maps import GradCAM, MapMethod, create
from regard.models import fingerprint
from regard.report.overlay import picture
from regard.report.summary import Summary
from regard.report.wording import gathered, listed
from regard.training import load_data
from regard.training.recipe import DataRecipe

_PICTURES = 360  # at most, for the size of the page


@dataclass(frozen=True)
class Cell:
    """A network's map over an image."""

    picture: str
    alt: str
    predicted: str
    wrong: bool
    verdict: str
    """ "position bias", "range bias", "inside" or "no focus"; "" where the region is not known."""
    probability: str = ""
    """Of the class whose map it is, in words."""
    detail: str = ""
    """What else is said below it."""


@dataclass(frozen=True)
class Strip:
    """A test image, and the cells of all networks."""

    picture: str
    alt: str
    label: str
    place: int
    cells: tuple[Cell, ...]
    caption: str
    """What the image is called."""


@dataclass(frozen=True)
class Sheet:
    """Strips of test images, each with the rule that picked them.

    Attributes:
        networks: the rows whose maps are shown, in the order of the cells.
        fair: images picked whatever the networks make of them.
        apart: images on which the networks differ most.
        images: in the test set.
        regions: whether they are known.
        notes: which networks are not shown, and why.
    """

    networks: tuple[Summary, ...]
    fair: tuple[Strip, ...]
    apart: tuple[Strip, ...]
    images: int
    regions: bool
    notes: tuple[str, ...]


def make_sheet(
    rows: Sequence[Summary], reference: int, test: InMemoryDataset, *, images: int = 12, apart: int = 4
) -> Sheet:
    """Shows the networks that were tested on the images of the reference.

    Args:
        rows: of the report.
        reference: its place among them.
        test: its test images.
        images: how many to pick fairly, at least 1.
        apart: how many more to pick because the networks differ on them. Many networks get fewer images of both
            kinds, so that the page stays small.
    """
    mappers: dict[str, MapMethod] = {}
    left_out = []
    for row in rows:
        reason = _why_not(row, rows[reference], test)
        if reason is None:
            try:
                mappers[row.name] = _mapper(row)
            except InputError as error:
                reason = str(error)
        if reason is not None:
            left_out.append((row.name, reason))
    shown = [row for row in rows if row.name in mappers]
    notes = gathered(left_out, "not on the sheet of test images")
    if not shown:
        return Sheet((), (), (), len(test), test.regions is not None, tuple(notes))
    room = max(2, _PICTURES // (len(shown) + 1))
    apart = min(apart, room // 4)
    count = min(images, len(test), room - apart)
    fair = spread(len(test), count)
    differing = most_apart(shown, rows[reference], test, apart)
    places = sorted({*fair, *differing})
    looks = {row.name: _look(mappers[row.name], row, test, places) for row in shown}
    stale = [row.name for row in shown if row.bias and _is_stale(row.bias, mappers[row.name].model)]
    if stale:
        notes.append(
            f"{listed(stale)}: bias.json was measured with other weights than those after the last epoch; measure "
            "again (regard bias)."
        )
    notes += _disagreements([row for row in shown if row.name not in stale], test, places, looks)
    strips = {
        place: _strip(test, place, [looks[row.name][i] for row in shown], [row.name for row in shown])
        for i, place in enumerate(places)
    }
    return Sheet(
        networks=tuple(shown),
        fair=tuple(strips[place] for place in fair),
        apart=tuple(strips[place] for place in differing),
        images=len(test),
        regions=test.regions is not None,
        notes=tuple(notes),
    )


def spread(total: int, count: int) -> list[int]:
    """Places of images that nobody picked: one drawn (seed 0) from each of `count` equal parts of the set."""
    edges = np.arange(count + 1) * total // count
    return [int(place) for place in RandomStream(0).integers(edges[:-1], edges[1:] - 1, count)]


def most_apart(rows: Sequence[Summary], reference: Summary, test: InMemoryDataset, count: int) -> list[int]:
    """Places of the images on which the spill of the others is furthest from the reference's, in the mean.

    Empty unless the reference and another network were measured on these test images.
    """
    spills = {row.name: row.bias.rows["spill"] for row in rows if row.bias and _same_labels(row, test)}
    base = spills.pop(reference.name, None)
    if base is None or not spills:
        return []
    gaps: NDArray[np.float64] = np.stack([np.abs(spill.astype(np.float64) - base) for spill in spills.values()])
    gap = np.nan_to_num(gaps).mean(axis=0)  # without a focus there is no spill, and no gap
    order = np.argsort(-gap, kind="stable")[:count]
    return [int(place) for place in order if gap[place] > 0]


def _same_labels(row: Summary, test: InMemoryDataset) -> bool:
    return row.bias is not None and np.array_equal(row.bias.rows["label"], test.labels.cpu().numpy())


def _why_not(row: Summary, reference: Summary, test: InMemoryDataset) -> str | None:
    """Why the network cannot be shown the test images of the reference; None: it can."""
    if not row.environment.get("classes"):
        return f"nothing in {row.run.folder} names its classes (environment.json)"
    if tuple(row.environment["classes"]) != test.classes:
        return "it was trained for other classes"
    if _set(row.recipe.data) == _set(reference.recipe.data):
        return None
    try:
        own = load_data(replace(row.recipe.data, download=False)).test
    except InputError as error:
        return f"its test images cannot be had ({error})"
    same = torch.equal(own.images, test.images) and torch.equal(own.labels, test.labels)
    return None if same else f"it was tested on other images than {reference.name}"


def _set(recipe: DataRecipe) -> DataRecipe:
    """What of the recipe decides on the test images."""
    return replace(recipe, train_images=None, mean=None, std=None, download=False)


@dataclass(frozen=True)
class _Look:
    heat: NDArray[np.float64]  # (H, W), 0 to 1
    predicted: int
    verdict: str
    spill: float
    threshold: float


def _mapper(row: Summary) -> MapMethod:
    """The method of a network's bias report, at its layers; without a report, Grad-CAM.

    Raises:
        InputError: there are no such weights, no such method, or no such layer.
    """
    model, report = row.run.model("last"), row.bias
    return GradCAM(model) if report is None else create(report.method, model, report.layers or None)


def _is_stale(report: Report, model: nn.Module) -> bool:
    """Whether a report says that it is of other weights."""
    measured = report.provenance.get("weights")
    return measured is not None and measured != fingerprint(model)


def _look(mapper: MapMethod, row: Summary, test: InMemoryDataset, places: Sequence[int]) -> list[_Look]:
    """What the network makes of the images at these places, with the settings of its bias report."""
    report = row.bias
    by_label = report is not None and report.target == "label"
    threshold, margin = (report.threshold, report.margin) if report else (0.5, 0)
    chosen = test.subset(torch.tensor(places))
    recipe = row.recipe.data
    (batch,) = create_loader(chosen, len(chosen), mean=recipe.mean, std=recipe.std, device="cpu").epoch(0)
    heat = mapper(batch.images, batch.labels if by_label else None)
    predicted = predicted_classes(mapper.logits).tolist() if mapper.logits is not None else []
    verdicts, spills = [""] * len(places), [float("nan")] * len(places)
    if chosen.regions is not None:
        measures = measure(heat, chosen.regions.cpu(), threshold, margin=margin)
        flags = zip(measures.flat, measures.position_bias, measures.range_bias, strict=True)
        verdicts = [verdict(*(bool(flag) for flag in each)) for each in flags]
        spills = measures.spill.tolist()
    heats = scaled(heat).double().numpy()
    return [_Look(*each, threshold) for each in zip(heats, predicted, verdicts, spills, strict=True)]


def verdict(flat: bool, position: bool, range_: bool) -> str:
    """What is said of a map, in two words."""
    return "no focus" if flat else "position bias" if position else "range bias" if range_ else "inside"


def _disagreements(
    rows: Sequence[Summary], test: InMemoryDataset, places: Sequence[int], looks: Mapping[str, Sequence[_Look]]
) -> list[str]:
    """What to say if the networks predict other classes than their reports say."""
    counts = {}
    for row in rows:
        if row.bias is not None and _same_labels(row, test):
            predicted = np.array([look.predicted for look in looks[row.name]])
            counts[row.name] = int((row.bias.rows["predicted"][list(places)] != predicted).sum())
    names = [name for name, count in counts.items() if count]
    if not names:
        return []
    return [
        f"{listed(names)}: other classes are predicted on the sheet than in bias.json, for up to "
        f"{max(counts.values())} of {len(places)} images; it was measured with other weights than those after the last "
        "epoch, or on other images."
    ]


def _strip(test: InMemoryDataset, place: int, looks: Sequence[_Look], names: Sequence[str]) -> Strip:
    image = test.images[place].permute(1, 2, 0).cpu().numpy()
    region = None if test.regions is None else test.regions[place].cpu().numpy()
    label = test.classes[int(test.labels[place])]
    cells = []
    for look, name in zip(looks, names, strict=True):
        predicted = test.classes[look.predicted]
        verdict = f", {look.verdict}" if look.verdict else ""
        spill = f", {look.spill:.0%} of the focus outside" if look.spill == look.spill else ""
        alt = f"Test image {place}, map of {name}: class {predicted}{verdict}{spill}"
        wrong = look.predicted != int(test.labels[place])
        shown = picture(image, look.heat, region, look.threshold)
        cells.append(Cell(shown, alt, predicted, wrong, look.verdict))
    alt = f"Test image {place}, class {label}{', its region outlined' if region is not None else ''}"
    return Strip(picture(image, None, region), alt, label, place, tuple(cells), f"image {place}")
