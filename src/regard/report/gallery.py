"""Images on a page: which of a set to take, their class activation maps (CAMs), and what interventions make of them."""

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
"""Of one image, for captions."""

_CHANGED = 21  # purpose of the random stream of changed images, among those of a seed
_CHANGED_SIZE = 160  # pixels of the longer side


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


@dataclass(frozen=True)
class ChangedImage:
    """An image and what interventions make of it.

    Attributes:
        name: of the image.
        label: the name of its class.
        pictures: (variant, data URI, whether each model is right on it) each; the variant "" is the original.
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
    """Random images that have all variants in all results; the same ones in each call.

    Args:
        interventions: of the data set.
        dataset: the images.
        results: of models, with interventions.
        count: of the images, at most.
        mean: what the images are normalised with.
        std: likewise.
    """
    complete = np.all([~np.isnan(one.rows[name]) for one in results for name in VARIANTS], axis=0)
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
            right = tuple(bool(one.rows[name or "correct"][row]) for one in results)
            pictures.append((name, data_uri(draw(pixels, size=_CHANGED_SIZE)), right))
        label = dataset.classes[int(dataset.labels[indices[key]])]
        yield ChangedImage(key, label, tuple(pictures))
