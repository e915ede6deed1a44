"""The images that a report on bias shows, looked at once more by each network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from numpy.typing import NDArray

from regard import bias, data, report
from regard.commands.subjects import Subject
from regard.data import InMemoryDataset
from regard.files import utf8


def sights(found: Sequence[Subject], reports: Sequence[bias.Report], count: int) -> list[report.Sight]:
    """The images that `report.choose_sights` picks, with the map of each network.

    Args:
        found: networks on the same images; their models are released in the end.
        reports: of these, in the same order.
        count: of images.
    """
    chosen = report.choose_sights(reports, count)
    rows = [row for row, _ in chosen]
    images = found[0].images
    if isinstance(images, InMemoryDataset):
        places = [int(reports[0].keys[row]) for row in rows]
    else:
        by_key = {utf8(key): place for place, key in enumerate(images.keys)}
        places = [by_key[reports[0].keys[row]] for row in rows]
    seen = [_seen(subject, one, rows, places) for subject, one in zip(found, reports, strict=True)]
    shown = []
    for i, (row, why) in enumerate(chosen):
        pictures, regions, heats = zip(*(views[i] for views in seen), strict=True)
        shown.append(report.make_sight(reports, row, why, pictures, regions, heats))
    return shown


def _seen(
    subject: Subject, one: bias.Report, rows: Sequence[int], places: Sequence[int]
) -> list[tuple[NDArray, NDArray, NDArray]]:
    """Picture, region and map of each image, as the network sees it."""
    options = subject.options
    looker = bias.Looker(subject.model, options.method, subject.layers, threshold=options.threshold)
    explained = torch.as_tensor(one.rows["explained"][list(rows)], device=subject.device)
    heats: list[NDArray] = []
    for batch in subject.batches(places):
        maps, _, _ = looker.maps(batch.images, explained[len(heats) : len(heats) + len(batch.images)])
        heats += list(bias.scaled(maps).double().cpu().numpy())
    subject.release()
    return [(*data.looked(subject.images, subject.fit, place), heat) for place, heat in zip(places, heats, strict=True)]
