"""D-RISE: maps of detections, computed without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import InputError, check_interval
from regard.maps.detection_cam import DetectionCAM
from regard.maps.detections import Detections, checked_detections, checked_image, highest
from regard.maps.layers import Layer, hookable
from regard.maps.method import promote, uncached_autocast
from regard.modes import eager_evaluation

Progress = Callable[[int, int], None]


class DRISE:
    """D-RISE: a pixel's value is how much more similar the best-matching detection is when the pixel is visible than
    on average.

    Example::

        drise = DRISE(detector)
        maps = drise(image)               # (n, H, W), one map for each of the n detections in drise.detections

    Random masks darken the image: grids of `cells` x `cells`, each cell 1 with the probability, enlarged bilinearly and
    shifted by less than a cell. The similarity of a masked image is that of its most similar detection: IoU of the
    boxes, times the cosine of the class scores, times the objectness. The map is the mean of the masks, weighted by
    this similarity. Source: Petsiuk et al., "Black-box Explanation of Object Detectors via Saliency Maps" (CVPR 2021,
    arXiv 2006.03204), equations 2 to 4; masks as in RISE (arXiv 1806.07421).

    Differences from the paper: its map is a sum, which is high everywhere. Here a pixel has the mean similarity over
    the masks that show it, minus the mean over all masks, and negative values become 0, so that the energy of the map
    is meaningful; the order of pixels hardly changes. The paper compares with all proposals, this with the final
    detections, so a low score threshold inside the detector helps. Cosine and objectness are the paper's if detections
    have `class_scores` (n, K), and perhaps `objectness` (n,). torchvision's detectors give one score per detection:
    then the cosine is 1 for equal labels, otherwise 0, and the score replaces the objectness.

    Args:
        detector: as for `DetectionCAM`, but it needs no gradients.
        masks: number of masks; the paper uses 5000.
        cells: cells of a grid in each direction; the paper uses 16.
        probability: probability that a cell stays visible, in (0, 1); the paper uses 0.5.
        seed: seed of the masks. A larger number of masks starts with the masks of a smaller one.
        batch_size: masked images per forward.

    Attributes:
        detector: the detector.
        detections: the detections of the last call that have maps, highest score first; None before the first call.

    Raises:
        InputError: a number out of range.
    """

    method = "drise"
    layer = ""

    def __init__(
        self,
        detector: nn.Module,
        *,
        masks: int = 1000,
        cells: int = 16,
        probability: float = 0.5,
        seed: int = 0,
        batch_size: int = 8,
    ) -> None:
        for name, value in {"masks": masks, "cells": cells, "batch_size": batch_size}.items():
            check_interval(name, value, "[1, inf)")
        check_interval("probability", probability, "(0, 1)")
        self.detector = detector
        self._network = hookable(detector)
        self.masks, self.cells, self.probability = masks, cells, probability
        self.seed, self.batch_size = seed, batch_size
        self.detections: Detections | None = None

    def __call__(
        self,
        image: Tensor,
        *,
        score_threshold: float = 0.0,
        limit: int | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """The maps of the detections of one image.

        Args:
            image: (3, H, W), floating point, in [0, 1], not normalised, on the device of the detector.
            score_threshold: lowest score of a detection that gets a map.
            limit: maximum number of detections, those with the highest scores; None: all.
            progress: called after each forward with the number of masks done and their total.

        Returns:
            (n, H, W), n may be 0; in [0, 1], without a graph, float32, or float64 for a float64 image. A detection that
            no masked image matches has a map of zeros.

        Raises:
            InputError: an image of another shape or dtype, or an output without detections.
        """
        image = checked_image(self._network, image)
        with eager_evaluation(self._network), uncached_autocast(image.device.type):
            detections = checked_detections(self._network([image]), 1)[0]
            order = highest(detections["scores"], score_threshold, limit)
            self.detections = targets = {name: values[order] for name, values in detections.items()}
            precise = promote(image)
            weighted, visible = precise.new_zeros(len(order), *image.shape[1:]), torch.zeros_like(precise[0])
            total = precise.new_zeros(len(order))
            done = 0
            for masks in self._masks(precise) if len(order) else ():
                masked = list((precise * masks[:, None]).to(image.dtype))
                outputs = checked_detections(self._network(masked), len(masked))
                with torch.autocast(image.device.type, enabled=False):
                    similarities = torch.stack([similarity(targets, output) for output in outputs], 1)  # (n, B)
                    similarities = similarities.to(masks.dtype)
                    weighted += torch.einsum("nb,bhw->nhw", similarities, masks)
                visible += masks.sum(0)
                total += similarities.sum(1)
                done += len(masks)
                if progress is not None:
                    progress(done, self.masks)
            mean = (total / self.masks)[:, None, None]
            return (weighted / visible.clamp(min=1e-6) - mean).clamp(min=0)

    def _masks(self, image: Tensor) -> Iterator[Tensor]:
        """Batches of masks (B, H, W), in [0, 1], which do not depend on the batch size or the device."""
        height, width = image.shape[1:]
        cell = -(-height // self.cells), -(-width // self.cells)  # height and width in pixels
        random = torch.rand(self.masks, self.cells**2 + 2, generator=torch.Generator().manual_seed(self.seed))
        for rows in random.split(self.batch_size):
            grids = (rows[:, 2:] < self.probability).to(image.device, image.dtype).unflatten(1, (1, self.cells, -1))
            size = ((self.cells + 1) * cell[0], (self.cells + 1) * cell[1])
            enlarged = F.interpolate(grids, size, mode="bilinear", align_corners=False)[:, 0]
            shifts = (rows[:, :2] * torch.tensor(cell)).long().tolist()
            crops = [mask[y : y + height, x : x + width] for mask, (y, x) in zip(enlarged, shifts, strict=True)]
            yield torch.stack(crops)


def similarity(targets: Detections, detections: Detections) -> Tensor:
    """The similarity (n,) of each target to the most similar of some detections, 0 if there are none; see `DRISE`."""
    from torchvision.ops import box_iou

    iou = box_iou(targets["boxes"], detections["boxes"]).nan_to_num(0)  # NaN for two boxes without area
    if "class_scores" in targets:
        cosine = F.normalize(targets["class_scores"], dim=1) @ F.normalize(detections["class_scores"], dim=1).T
        objectness = detections.get("objectness", torch.ones_like(detections["scores"]))
    else:
        cosine = targets["labels"][:, None] == detections["labels"]
        objectness = detections["scores"]
    return F.pad(iou * cosine * objectness, (0, 1)).amax(1)


def create_for_detections(
    method: str, detector: nn.Module, layer: Layer | Sequence[Layer] | None = None, **options: Any
) -> DetectionCAM | DRISE:
    """Creates the method for a detector by name: "drise", or a method of `DetectionCAM`.

    Args:
        method: the name.
        detector: see `DetectionCAM`.
        layer: the layer of a CAM; D-RISE has none.
        options: options of `DRISE` or `DetectionCAM`.

    Raises:
        InputError: a layer for D-RISE, or an error of the method itself.
    """
    if method != DRISE.method:
        return DetectionCAM(detector, layer, method, **options)
    if layer is not None:
        raise InputError("D-RISE has no layer; leave it out (--layer)")
    return DRISE(detector, **options)
