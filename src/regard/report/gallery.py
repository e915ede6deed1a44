"""Images with class activation maps (CAMs): which to take, their maps with measures, and a gallery of them.

- `explain_batch`: the rows of a batch, a `Row` for each image with a `Cell` for each class.
- `choose`: which images of a set to take.
- `Gallery`: rows as they are drawn on a page, by the macro in `gallery.html`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from regard import figures
from regard.bias import Results, measure, scaled
from regard.bias.summary import comparable
from regard.data import Batch, Channels, ImageDataset, denormalised
from regard.data.random import RandomStream
from regard.errors import check_interval
from regard.formatting import percent, printable, shortened
from regard.logits import class_logits
from regard.maps import MapMethod
from regard.notebook import Tabular
from regard.report.glossary import name_of
from regard.report.overlay import Mask, Pixels, data_uri, draw
from regard.stats import without_nan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANDOM, ALL = "Random images", "All images"
DIFFERENT = "Largest differences in energy inside"

MEASURES = ("spill", "miss", "iou", "energy_inside", "auc", "pointing")
"""Of one image, for captions."""


@dataclass(frozen=True)
class ClassScore:
    """An output of a model and its probability (softmax), 0 to 1."""

    index: int
    name: str
    probability: float

    def to_record(self) -> dict[str, Any]:
        """JSON-ready; None for NaN."""
        return without_nan({"class": self.name, "class_index": self.index, "probability": self.probability})


@dataclass(frozen=True, eq=False)
class Cell:
    """The CAM of one class over an image.

    Attributes:
        pixels: uint8 (H, W, 3), the image as the model got it, before normalisation.
        region: bool (H, W); None where there is none.
        cam: (H, W), scaled to 0 to 1; all 0 if it is constant.
        threshold: of the focus.
        explained: the class whose CAM it is.
        predicted: the class with the highest score.
        correct: whether that is the label's; None where this is not known.
        measures: those of `bias.Measures` by name; empty without a region.
        box: of a detection, (left, top, right, bottom) in pixels; None for a class.
    """

    pixels: Pixels
    region: Mask | None
    cam: NDArray[np.float64]
    threshold: float
    explained: ClassScore
    predicted: ClassScore
    correct: bool | None
    measures: Mapping[str, float | bool]
    box: tuple[float, float, float, float] | None = None

    @property
    def result(self) -> str:
        """ "position bias", "range bias", "inside" or "constant map"; "" without a region."""
        if not self.cam.any():
            return "constant map"
        if not self.measures:
            return ""
        biases = (name for name in ("position_bias", "range_bias") if self.measures[name])
        return next(biases, "inside").replace("_", " ")

    def draw(self, size: int | None = None) -> Pixels:
        """The image with the map, the edge of the focus and of the region; see `overlay.draw`."""
        return draw(self.pixels, self.cam, self.region, self.threshold, size=size, boxes=[self.box] if self.box else ())

    def to_record(self) -> dict[str, Any]:
        """JSON-ready; None for NaN."""
        return {
            **self.explained.to_record(),
            "predicted": self.predicted.name,
            "correct": self.correct,
            "result": self.result,
            **({"box": list(self.box)} if self.box else {}),
            **without_nan(self.measures),
        }


@dataclass(frozen=True, eq=False)
class Row(Tabular):
    """An image, and its CAMs: of several classes, or of several models.

    Attributes:
        index: in its data set.
        key: its name there.
        label: the name of its class; "" where it has none.
        cells: at least one.
        likeliest: the classes with the highest scores in the first cell's model, highest first.
        note: why it has no region although the data set has some; or "".
    """

    index: int
    key: str
    label: str
    cells: tuple[Cell, ...]
    likeliest: tuple[ClassScore, ...]
    note: str = ""

    def draw(self, size: int | None = None) -> Pixels:
        """The image with the edge of its region, as the first cell has it, and the boxes of all cells."""
        boxes = [cell.box for cell in self.cells if cell.box]
        return draw(self.cells[0].pixels, None, self.cells[0].region, size=size, boxes=boxes)

    def plot(self) -> Figure:
        """A matplotlib figure: the image, and beside it each CAM, with its class and the result."""
        pictures = {self.label or "image": self.draw()}
        for cell in self.cells:
            title = f"{printable(cell.explained.name)} ({percent(cell.explained.probability)}%)"
            pictures["\n".join(filter(None, (title, cell.result)))] = cell.draw()
        return figures.pictures({self.key: pictures})

    def to_records(self) -> list[dict[str, Any]]:
        """A flat dict for each cell, then for each of the likeliest classes without one; JSON-ready, None for NaN."""
        explained = {cell.explained.index for cell in self.cells}
        others = [score.to_record() for score in self.likeliest if score.index not in explained]
        of_image = {"image": self.key, "label": self.label or None}
        return [of_image | record for record in (*(cell.to_record() for cell in self.cells), *others)]


def explain_batch(
    method: MapMethod,
    batch: Batch,
    images: ImageDataset,
    *,
    mean: Channels,
    std: Channels,
    names: Sequence[str],
    classes: Tensor | None = None,
    top: int = 1,
    label_outputs: Sequence[int] = (),
    threshold: float = 0.5,
    margin: int = 0,
    tolerance: int = 0,
) -> list[Row]:
    """The images of a batch, each with its CAMs.

    Args:
        method: of the CAMs, with its model.
        batch: of `images`, with masks where they have some.
        images: the data set that the index of the batch is of.
        mean: what the batch was normalised with.
        std: likewise.
        names: of the model's outputs.
        classes: int64 (B, K), the outputs to explain; None: the likeliest ones.
        top: how many of these; and how many are listed as the likeliest.
        label_outputs: for each class of the data set the output that stands for it, -1 where none does.
        threshold: of the focus; see `bias.measure`.
        margin: of range bias, in pixels; likewise.
        tolerance: of the pointing game, in pixels; likewise.
    """
    top = min(top, len(names))
    cams = method(batch.images, top=top) if classes is None else method(batch.images, classes)
    assert method.logits is not None and method.classes is not None
    count, each = method.classes.shape
    probabilities = class_logits(method.logits).double().softmax(1).cpu()
    likeliest = probabilities.topk(top, dim=1).indices.tolist()
    flat = cams.flatten(0, 1)  # as if they were so many images
    measures: dict[str, list[list[float | bool]]] = {}
    if batch.masks is not None:
        regions = batch.masks.to(flat.device).repeat_interleave(each, 0)
        values = measure(flat, regions, threshold, margin=margin, tolerance=tolerance)
        measures = {name: one.cpu().view(count, each).tolist() for name, one in values.items()}
    heatmaps = scaled(flat).double().view(cams.shape).cpu().numpy()
    pixels = denormalised(batch.images, mean, std).permute(0, 2, 3, 1).cpu().numpy()
    masks = None if batch.masks is None else batch.masks.cpu().numpy()
    rows = []
    for i, (index, label) in enumerate(zip(batch.index.tolist(), batch.labels.tolist(), strict=True)):

        def score(output: int, of: Tensor = probabilities[i]) -> ClassScore:
            return ClassScore(output, names[output], float(of[output]))

        region = masks[i] if masks is not None and masks[i].any() else None
        target = label_outputs[label] if label_outputs and label >= 0 else -1
        cells = tuple(
            Cell(
                pixels=pixels[i],
                region=region,
                cam=heatmaps[i, k],
                threshold=threshold,
                explained=score(output),
                predicted=score(likeliest[i][0]),
                correct=likeliest[i][0] == target if target >= 0 else None,
                measures={} if region is None else {name: values[i][k] for name, values in measures.items()},
            )
            for k, output in enumerate(method.classes[i].tolist())
        )
        label_name = images.classes[label] if label >= 0 else ""
        note = _missing_region(images, index) if masks is not None and region is None else ""
        rows.append(Row(index, images.keys[index], label_name, cells, tuple(map(score, likeliest[i])), note))
    return rows


def spread(total: int, count: int) -> list[int]:
    """Indices of random images (seed 0): one from each of `count` equal parts of a set of `total`."""
    edges = np.arange(count + 1) * total // count
    return [int(index) for index in RandomStream(0).integers(edges[:-1], edges[1:] - 1, count)]


def choose(
    total: int, count: int, scores: Mapping[str, NDArray[np.floating]], *, each: int | None = None
) -> dict[str, list[int]]:
    """Images of a set to show: those with the highest scores, and random ones. None is chosen twice.

    Args:
        total: images in the set; if there are no more than `count`, all are chosen.
        count: of images, 0 or more.
        scores: heading -> (total,), NaN for images that are not to be chosen for it.
        each: images for each heading; None: as many as there are random ones.

    Returns:
        Heading -> indices, the random images first, then the headings of `scores` that have any.
    """
    if total <= count:
        return {ALL: list(range(total))} if total else {}
    share = min(count // (len(scores) + 1) if each is None else each, count)
    highest: dict[str, list[int]] = {}
    chosen: set[int] = set()
    for heading, values in scores.items():
        order = np.argsort(-values, kind="stable")  # NaN last
        free = [int(i) for i in order[: share + len(chosen)] if i not in chosen and not math.isnan(values[i])][:share]
        if free and len(chosen) + len(free) <= count:
            highest[heading] = free
            chosen |= set(free)
    rest = np.setdiff1d(np.arange(total), list(chosen))
    random = [int(rest[i]) for i in spread(len(rest), count - len(chosen))] if count > len(chosen) else []
    return ({RANDOM: random} if random else {}) | highest


def energy_inside(results: Results) -> NDArray[np.float64]:
    """Energy inside of each image, (N,); NaN without a region or for a constant map."""
    return np.where(comparable(results.rows), results.rows["energy_inside"], np.nan).astype(np.float64)


def disagreement(results: Sequence[Results]) -> NDArray[np.float64]:
    """Of models on the same images: the range of their energies inside, (N,); NaN where it is 0 or not known."""
    gap = np.ptp(np.stack([energy_inside(one) for one in results]), axis=0)
    return np.where(gap > 0, gap, np.nan)


def bias_images(results: Sequence[Results], count: int = 12) -> dict[str, list[int]]:
    """Images of bias results to show: random ones, and about as many of each kind of extremes; see `choose`.

    Args:
        results: of models on the same images.
        count: of images.

    Returns:
        Heading -> indices.

    Raises:
        InputError: a negative count.
    """
    check_interval("images to show", count, "[0, 2^24]")
    first, energy = results[0].rows, energy_inside(results[0])
    name = f" ({shortened([one.model for one in results])[0]})" if len(results) > 1 else ""
    if results[0].scored:
        right, wrong = first["correct"], ~first["correct"] & (first["label"] >= 0)
        scores = {
            f"Right predictions, least energy inside{name}": np.where(right, -energy, np.nan),
            f"Wrong predictions, least energy inside{name}": np.where(wrong, -energy, np.nan),
        }
    else:
        scores = {f"Least energy inside{name}": -energy}
    if len(results) > 1:
        scores[DIFFERENT] = disagreement(results)
    return choose(len(first["label"]), count, {key: each for key, each in scores.items() if np.isfinite(each).any()})


class Gallery:
    """Rows as drawings under headings, for the macro of `gallery.html`.

    Arrays are not kept, so that a gallery of many images takes little memory.

    Args:
        columns: names of the models, in the order of the cells; empty: the cells are of classes.
        measures: names of the measures in captions.
        size: the longer side of a large image in pixels.
        limit: pictures, at most, unless one row has more; further rows are counted only.

    Attributes:
        groups: heading -> rows, as dicts of text.
        omitted: how many rows there was no room for.
        regions: whether any row has a region.
        boxes: whether any row has the box of a detection.
    """

    def __init__(
        self, columns: Sequence[str] = (), *, measures: Sequence[str] = (), size: int = 160, limit: int = 360
    ) -> None:
        self.columns = tuple(map(printable, columns))
        self.measures = tuple(measures)
        self.size = size
        self.groups: dict[str, list[dict[str, Any]]] = {}
        self.omitted = 0
        self.regions = self.boxes = False
        self._room = limit

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))

    def add_models(self, chosen: Mapping[str, Sequence[int]], models: Sequence[Iterable[Row]]) -> None:
        """Draws the rows of several models on the images of `choose`, in its order."""
        headings = [heading for heading, indices in chosen.items() for _ in indices]
        for heading, *rows in zip(headings, *models, strict=True):
            cells = tuple(cell for row in rows for cell in row.cells)
            self.add(replace(rows[0], cells=cells), heading)

    def add(self, row: Row, heading: str = "") -> None:
        """Draws a row below the others of its heading."""
        pictures = 1 + len(row.cells)
        if self.omitted or (len(self) and pictures > self._room):
            self.omitted += 1
            return
        self._room -= pictures
        self.regions |= any(cell.region is not None for cell in row.cells)
        self.boxes |= any(cell.box is not None for cell in row.cells)
        name = printable(f"image {row.key}" if row.key.isdigit() else row.key)
        explained = {cell.explained.index for cell in row.cells}
        likeliest = row.likeliest if {score.index for score in row.likeliest} - explained else ()
        drawn = {
            "name": name,
            "label": printable(row.label),
            "likeliest": [(printable(score.name), score.probability) for score in likeliest],
            "note": row.note,
            "picture": data_uri(row.draw(self.size)),
            "alt": ", ".join(filter(None, (name, printable(row.label)))),
            "cells": [self._cell(name, row, column) for column in range(len(row.cells))],
        }
        self.groups.setdefault(heading, []).append(drawn)

    def _cell(self, name: str, row: Row, column: int) -> dict[str, Any]:
        cell = row.cells[column]
        model = self.columns[column] if self.columns else ""
        numbers = [(name_of(key), _text(cell.measures[key])) for key in self.measures if _has(cell.measures, key)]
        alt = (name, model, f"CAM of {printable(cell.explained.name)}", cell.result)
        return {
            "picture": data_uri(cell.draw(self.size)),
            "alt": ", ".join([*filter(None, alt), *(" ".join(number) for number in numbers)]),
            "model": model,
            "class": printable(cell.explained.name),
            "probability": cell.explained.probability,
            "predicted": "" if cell.predicted.index == cell.explained.index else printable(cell.predicted.name),
            "wrong": cell.correct is False,
            "result": cell.result,
            "numbers": numbers,
        }


def _has(measures: Mapping[str, float | bool], key: str) -> bool:
    return key in measures and not math.isnan(measures[key])


def _text(value: float | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}"


def _missing_region(images: ImageDataset, index: int) -> str:
    region = images.mask(index)
    if region is not None and region.any():
        return "the region is cropped away or too small"
    return "no region"
