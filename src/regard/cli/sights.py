"""The images that a report on bias shows, looked at once more by each network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from numpy.typing import NDArray

from regard import bias, report
from regard.cli.evaluations import Evaluation
from regard.cli.methods import cam_method
from regard.data import denormalised
from regard.files import utf8


def sights(found: Sequence[Evaluation], reports: Sequence[bias.Results], count: int) -> list[report.Sight]:
    """The images that `report.choose_sights` picks, with the map of each network.

    Args:
        found: networks on the same images; their models are released in the end.
        reports: of these, in the same order.
        count: of images.
    """
    chosen = report.choose_sights(reports, count)
    rows = [row for row, _ in chosen]
    by_key = {utf8(key): place for place, key in enumerate(found[0].dataset.keys)}
    places = [by_key[reports[0].keys[row]] for row in rows]
    seen = [_seen(evaluation, one, rows, places) for evaluation, one in zip(found, reports, strict=True)]
    shown = []
    for i, (row, why) in enumerate(chosen):
        pictures, regions, heats = zip(*(views[i] for views in seen), strict=True)
        shown.append(report.make_sight(reports, row, why, pictures, regions, heats))
    return shown


def _seen(
    evaluation: Evaluation, one: bias.Results, rows: Sequence[int], places: Sequence[int]
) -> list[tuple[NDArray, NDArray, NDArray]]:
    """Picture, region and map of each image, as the network sees it."""
    options = evaluation.options
    evaluator = bias.Evaluator(
        evaluation.model, cam_method(options.method), evaluation.layers, threshold=options.threshold
    )
    explained = torch.as_tensor(one.rows["explained"][list(rows)], device=evaluation.device)
    seen: list[tuple[NDArray, NDArray, NDArray]] = []
    for batch in evaluation.batches(places, masks=True):
        maps, _, _ = evaluator.maps(batch.images, explained[len(seen) : len(seen) + len(batch.images)])
        pictures = denormalised(batch.images, evaluation.mean, evaluation.std).permute(0, 2, 3, 1)
        assert batch.masks is not None
        parts = (pictures, batch.masks, bias.scaled(maps).double())
        seen += zip(*(part.cpu().numpy() for part in parts), strict=True)
    evaluation.release()
    return seen
