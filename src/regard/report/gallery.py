"""Galleries of images on a page: chooses images, and draws them with class activation maps (CAMs) or interventions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard.bias import VARIANTS, Interventions, Results
from regard.bias.summary import comparable
from regard.data import Channels, ImageDataset, denormalised
from regard.data.random import RandomStream
from regard.errors import check_interval
from regard.formatting import printable, shortened
from regard.report.explanation import Row
from regard.report.glossary import name_of
from regard.report.overlay import data_uri, draw

RANDOM, ALL = "Random images", "All images"
DIFFERENT = "Largest differences in energy inside"

MEASURES = ("spill", "miss", "iou", "energy_inside", "auc", "pointing")
"""Measures of one image, for captions."""

_CHANGED = 21  # purpose of the random stream that chooses changed images
_CHANGED_SIZE = 160  # longer side of a changed image in pixels


def spread(total: int, count: int) -> list[int]:
    """Indices of random images (seed 0), one from each of `count` equal parts of a set of `total`."""
    edges = np.arange(count + 1) * total // count
    return [int(index) for index in RandomStream(0).integers(edges[:-1], edges[1:] - 1, count)]


def choose(
    total: int, count: int, scores: Mapping[str, NDArray[np.floating]], *, each: int | None = None
) -> dict[str, list[int]]:
    """Chooses `count` of `total` images: random ones, then those with the highest scores, as heading -> indices.

    `scores` are heading -> (total,), NaN for images that do not belong under the heading. Each heading gets `each`
    images, or as many as there are random ones. No image is chosen twice.
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
    """The range of energy inside over models, for each image, (N,); NaN if it is 0 or not known."""
    ranges = np.ptp(np.stack([energy_inside(result) for result in results]), axis=0)
    return np.where(ranges > 0, ranges, np.nan)


def bias_images(results: Sequence[Results], count: int = 12) -> dict[str, list[int]]:
    """Chooses images of bias results to show: random ones, and about as many of each kind of extremes.

    Args:
        results: results of models on the same images.
        count: number of images.

    Returns:
        Heading -> indices.

    Raises:
        InputError: a negative count.
    """
    check_interval("images to show", count, "[0, 2^24]")
    first, energy = results[0].rows, energy_inside(results[0])
    name = f" ({shortened([result.model for result in results])[0]})" if len(results) > 1 else ""
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
    scores = {heading: values for heading, values in scores.items() if np.isfinite(values).any()}
    return choose(len(first["label"]), count, scores)


class Gallery:
    """Pictures of rows under headings, for the macro in `gallery.html`.

    Rows are stored as encoded pictures, so that a gallery of many images needs little memory.

    Args:
        columns: names of the models, in the order of the cells; empty: each cell is a class.
        measures: names of the measures in captions.
        size: longer side of a large image in pixels.
        limit: largest number of pictures, unless the first row has more; further rows are only counted.

    Attributes:
        groups: heading -> rows, as dicts of text.
        omitted: number of rows beyond the limit.
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
        self._remaining = limit

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))

    def add_models(self, chosen: Mapping[str, Sequence[int]], models: Sequence[Iterable[Row]]) -> None:
        """Draws the rows of several models on the images of `choose`, in the order of its result."""
        headings = [heading for heading, indices in chosen.items() for _ in indices]
        for heading, *rows in zip(headings, *models, strict=True):
            cells = tuple(cell for row in rows for cell in row.cells)
            self.add(replace(rows[0], cells=cells), heading)

    def add(self, row: Row, heading: str = "") -> None:
        """Draws a row at the end of a heading."""
        pictures = 1 + len(row.cells)
        if self.omitted or (len(self) and pictures > self._remaining):
            self.omitted += 1
            return
        self._remaining -= pictures
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
        measures = {key: cell.measures[key] for key in self.measures if key in cell.measures}
        numbers = [(name_of(key), _text(value)) for key, value in measures.items() if not math.isnan(value)]
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


def _text(value: float | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}"


@dataclass(frozen=True)
class ChangedImage:
    """An image and its variants after interventions.

    Attributes:
        name: name of the image.
        label: name of its class.
        pictures: (variant, data URI, whether each model is right); the variant "" is the original.
    """

    name: str
    label: str
    pictures: tuple[tuple[str, str, tuple[bool, ...]], ...]


def changed_images(
    interventions: Interventions,
    dataset: ImageDataset,
    results: Sequence[Results],
    count: int,
    mean: Channels,
    std: Channels,
) -> Iterator[ChangedImage]:
    """Random images that have all variants in all results; every call chooses the same.

    Args:
        interventions: interventions of the data set.
        dataset: the images.
        results: results with interventions, one per model.
        count: largest number of images.
        mean, std: what the images are normalised with.
    """
    complete = np.all([~np.isnan(result.rows[name]) for result in results for name in VARIANTS], axis=0)
    order = RandomStream(0, _CHANGED).permutation(len(complete))
    chosen = [row for row in order.tolist() if complete[row]][:count]
    indices = {key: index for index, key in enumerate(dataset.keys)}
    for row in chosen:
        key = results[0].keys[row]
        ((batch, variants),) = interventions.batches([indices[key]])
        images = {"": batch.images, **{name: changed for name, changed, _ in variants}}
        pictures = []
        for name, image in images.items():
            pixels = denormalised(image, mean, std)[0].permute(1, 2, 0).cpu().numpy()
            right = tuple(bool(result.rows[name or "correct"][row]) for result in results)
            pictures.append((name, data_uri(draw(pixels, size=_CHANGED_SIZE)), right))
        label = dataset.classes[int(dataset.labels[indices[key]])]
        yield ChangedImage(key, label, tuple(pictures))
