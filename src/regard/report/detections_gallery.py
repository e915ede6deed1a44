"""A gallery of detections: each image with box and region, and its map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from regard.bias import DetectionEvaluator, Results, scaled
from regard.bias.detections import MeasuredDetections, image_key
from regard.bias.summary import MEANS, RATES
from regard.files import utf8
from regard.formatting import shortened
from regard.maps.detections import Detections
from regard.report.explanation import Cell, ClassScore, Row
from regard.report.gallery import ALL, RANDOM, Gallery, choose, energy_inside

_HEADINGS = {ALL: "All detections", RANDOM: "Random detections"}
_SIZE = 256  # longer side of a picture in pixels


class DetectionsGallery(Gallery):
    """A gallery of random detections, and of those with the least energy inside, for each detector.

    Args:
        count: largest number of detections, of all detectors together.
        results: bias results of the detectors.
    """

    def __init__(self, count: int, results: Sequence[Results]) -> None:
        super().__init__(measures=("energy_inside",), size=_SIZE)
        self._count, self._names = count // len(results), shortened([result.model for result in results])

    def add_detector(self, evaluator: DetectionEvaluator, results: Results, device: torch.device | str) -> None:
        """Draws detections of the next detector, under its name if there are several.

        Args:
            evaluator: the evaluator that measured the results.
            results: results with one row per detection.
            device: device of the detector.
        """
        name = f"{self._names.pop(0)}: " if len(self._names) > 1 or self.groups else ""
        energy, right = energy_inside(results), results.rows["correct"]
        scores = {
            "Right detections, least energy inside": np.where(right, -energy, np.nan),
            "Wrong detections, least energy inside": np.where(right, np.nan, -energy),
        }
        scores = {heading: values for heading, values in scores.items() if np.isfinite(values).any()}
        chosen = choose(len(results), self._count, scores)
        drawn = _rows(evaluator, results, [row for rows in chosen.values() for row in rows], device)
        for heading, rows in chosen.items():
            for row in rows:
                self.add(drawn[row], f"{name}{_HEADINGS.get(heading, heading)}")


def detection_cells(
    image: Tensor,
    detections: Detections,
    maps: Tensor,
    names: Sequence[str],
    threshold: float,
    measured: MeasuredDetections | None = None,
) -> list[Cell]:
    """One cell per detection in an image (3, H, W), in [0, 1], with its map of (N, H, W); regions and measures are
    those of `measured`, if given.
    """
    pixels = (255 * image).round().byte().permute(1, 2, 0).cpu().numpy()
    columns: Mapping[str, Tensor] = {} if measured is None else measured.columns
    cells = []
    for i, (label, score, box) in enumerate(
        zip(*(detections[name].tolist() for name in ("labels", "scores", "boxes")), strict=True)
    ):
        class_score = ClassScore(label, names[label], score)
        cells.append(
            Cell(
                pixels=pixels,
                region=None if measured is None else measured.regions[i].cpu().numpy(),
                cam=scaled(maps[i : i + 1])[0].double().cpu().numpy(),
                threshold=threshold,
                explained=class_score,
                predicted=class_score,
                correct=bool(columns["correct"][i]) if columns else None,
                measures={name: columns[name][i].item() for name in columns if name in (*RATES, *MEANS)},
                box=(box[0], box[1], box[2], box[3]),
            )
        )
    return cells


def _rows(
    evaluator: DetectionEvaluator, results: Results, rows: Sequence[int], device: torch.device | str
) -> dict[int, Row]:
    """Gallery rows by row of the results; explains each image once."""
    indices = {utf8(key): index for index, key in enumerate(evaluator.dataset.keys)}
    row_images = {row: indices[image_key(results, row)] for row in rows}
    drawn: dict[int, Row] = {}
    images = sorted(set(row_images.values()))
    for batch in evaluator.batches(images, 0, "error", torch.device(device)) if images else ():
        (index,), (image,) = batch.index.tolist(), batch.images
        measured = evaluator.measured(image, (batch.targets or [{}])[0], evaluator.dataset.keys[index])
        cells = detection_cells(
            image, measured.detections, measured.maps, results.classes, evaluator.threshold, measured
        )
        keys = [utf8(key) for key in measured.keys]
        for row in (row for row in rows if row_images[row] == index):
            cell = cells[keys.index(results.keys[row])]
            drawn[row] = Row(row, results.keys[row], "", (cell,), ())
    return drawn
