"""A gallery of detections: the image with box and region, and beside it the map."""

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
_SIZE = 256  # pixels of a picture


class DetectionsGallery(Gallery):
    """Detections of bias results: of each detector random ones, and those with the least energy inside.

    Args:
        count: detections, at most, of all detectors together.
        results: of the detectors, for names and shares of the count.
    """

    def __init__(self, count: int, results: Sequence[Results]) -> None:
        super().__init__(measures=("energy_inside",), size=_SIZE)
        self._count, self._names = count // len(results), shortened([one.model for one in results])

    def add_detector(self, evaluator: DetectionEvaluator, results: Results, device: torch.device | str) -> None:
        """Draws detections of a detector, below its name if there are several.

        Args:
            evaluator: with which the results were measured.
            results: with a row per detection.
            device: of the detector.
        """
        name = f"{self._names.pop(0)}: " if len(self._names) > 1 or self.groups else ""
        energy, right = energy_inside(results), results.rows["correct"]
        scores = {
            "Right detections, least energy inside": np.where(right, -energy, np.nan),
            "Wrong detections, least energy inside": np.where(right, np.nan, -energy),
        }
        chosen = choose(len(results), self._count, {key: one for key, one in scores.items() if np.isfinite(one).any()})
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
    """A cell for each detection in an image (3, H, W), in [0, 1], with its box and map (H, W); `names` are those of
    the classes. Measured ones have a region and measures."""
    pixels = (255 * image).round().byte().permute(1, 2, 0).cpu().numpy()
    columns: Mapping[str, Tensor] = {} if measured is None else measured.columns
    cells = []
    for i, (label, score, box) in enumerate(
        zip(*(detections[name].tolist() for name in ("labels", "scores", "boxes")), strict=True)
    ):
        what = ClassScore(label, names[label], score)
        cells.append(
            Cell(
                pixels=pixels,
                region=None if measured is None else measured.regions[i].cpu().numpy(),
                cam=scaled(maps[i : i + 1])[0].double().cpu().numpy(),
                threshold=threshold,
                explained=what,
                predicted=what,
                correct=bool(columns["correct"][i]) if columns else None,
                measures={name: columns[name][i].item() for name in columns if name in (*RATES, *MEANS)},
                box=(box[0], box[1], box[2], box[3]),
            )
        )
    return cells


def _rows(
    evaluator: DetectionEvaluator, results: Results, rows: Sequence[int], device: torch.device | str
) -> dict[int, Row]:
    """The rows of the results as they are drawn; each image is explained once."""
    by_key = {utf8(key): index for index, key in enumerate(evaluator.dataset.keys)}
    of_row = {row: by_key[image_key(results, row)] for row in rows}
    drawn: dict[int, Row] = {}
    images = sorted(set(of_row.values()))
    for batch in evaluator.batches(images, 0, "error", torch.device(device)) if images else ():
        (index,), (image,) = batch.index.tolist(), batch.images
        measured = evaluator.measured(image, (batch.targets or [{}])[0], evaluator.dataset.keys[index])
        cells = detection_cells(
            image, measured.detections, measured.maps, results.classes, evaluator.threshold, measured
        )
        keys = [utf8(key) for key in measured.keys]
        for row in (row for row in rows if of_row[row] == index):
            cell = cells[keys.index(results.keys[row])]
            drawn[row] = Row(row, results.keys[row], "", (cell,), ())
    return drawn
