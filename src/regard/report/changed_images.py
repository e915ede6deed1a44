"""Images with their interventions, as pictures, and whether each model is right on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from regard.bias import VARIANTS, Interventions, Results
from regard.data import Channels, ImageDataset, denormalised
from regard.data.random import RandomStream
from regard.report.overlay import data_uri, draw

_PURPOSE = 21  # of the stream, among those of a seed
_SIZE = 160  # pixels of the longer side


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
    order = RandomStream(0, _PURPOSE).permutation(len(complete))
    chosen = [row for row in order.tolist() if complete[row]][:count]
    places = {key: place for place, key in enumerate(dataset.keys)}
    for row in chosen:
        key = results[0].keys[row]
        ((batch, variants),) = interventions.batches([places[key]])
        images = {"": batch.images, **{name: changed for name, changed, _ in variants}}
        pictures = []
        for name, image in images.items():
            pixels = denormalised(image, mean, std)[0].permute(1, 2, 0).cpu().numpy()
            right = tuple(bool(one.rows[name or "correct"][row]) for one in results)
            pictures.append((name, data_uri(draw(pixels, size=_SIZE)), right))
        label = dataset.classes[int(dataset.labels[places[key]])]
        yield ChangedImage(key, label, tuple(pictures))
