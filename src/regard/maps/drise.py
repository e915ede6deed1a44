"""D-RISE: maps of detections without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import InputError, check_interval
from regard.maps.detection_cam import DetectionCAM
from regard.maps.detections import Detections, checked_detections, checked_image, highest
from regard.maps.layers import Layer, readable
from regard.maps.method import uncached_autocast
from regard.modes import eager_evaluation

Progress = Callable[[int, int], None]


class DRISE:
    """D-RISE: how much more alike a detection is found again where a pixel stays visible than on average.

    Example::

        drise = DRISE(detector)
        maps = drise(image)               # (n, H, W), one map for each of the n detections of drise.detections

    The image is darkened by random masks: grids of `cells` x `cells` that are 1 with the probability, enlarged
    bilinearly and shifted by less than a cell. Of every masked image the most similar detection counts, by IoU of the
    boxes, times the cosine of the class scores, times the objectness. The map is the mean of the masks, weighted by
    that similarity. Source: Petsiuk et al., "Black-box Explanation of Object Detectors via Saliency Maps" (CVPR 2021,
    arXiv 2006.03204), equations 2 to 4; masks as in RISE (arXiv 1806.07421).

    Where this differs. The paper's map is a sum, which is high everywhere; here each pixel has the mean similarity over
    the masks that show it, less the mean over all masks, and what is negative is 0, so that the energy of the map means
    something; the order of pixels hardly changes. The paper compares with all proposals; here with the detections that
    the detector gives, so a low score threshold of its own helps. The cosine and the objectness are those of the paper
    where detections have `class_scores` (n, K), and perhaps `objectness` (n,). torchvision's detectors give one score
    for each detection: there the cosine is 1 for the same label and else 0, and the score takes the place of the
    objectness.

    Args:
        detector: as of `DetectionCAM`; it needs no gradients.
        masks: number of masks; the paper takes 5000.
        cells: of a grid, in both directions; the paper takes 16.
        probability: that a cell stays visible, above 0, below 1; the paper takes 0.5.
        seed: of the masks. More masks of the same seed begin with the same ones.
        batch_size: masked images in one forward.

    Attributes:
        detector: the detector.
        detections: those of the last call that have maps, highest score first; None before it.

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
        self._network = readable(detector)
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
            image: (3, H, W), floating point, in [0, 1], on the device of the detector, which normalises it itself.
            score_threshold: lowest score of a detection that gets a map.
            limit: number of detections, at most, those with the highest scores; None: all.
            progress: called after every forward with the masks done and those in all.

        Returns:
            (n, H, W), n may be 0, from 0 to 1, without a graph, in the image's pixels. A detection that is never found
            again has a map of zeros.

        Raises:
            InputError: an image of another shape or dtype, no detections in what the detector gives.
        """
        image = checked_image(self._network, image)
        with eager_evaluation(self._network), uncached_autocast(image.device.type):
            detections = checked_detections(self._network([image]), 1)[0]
            chosen = highest(detections["scores"], score_threshold, limit)
            self.detections = targets = {name: values[chosen] for name, values in detections.items()}
            weighted, visible = image.new_zeros(len(chosen), *image.shape[1:]), torch.zeros_like(image[0])
            total = image.new_zeros(len(chosen))
            done = 0
            for masks in self._masks(image) if len(chosen) else ():
                masked = list(image * masks[:, None])
                outputs = checked_detections(self._network(masked), len(masked))
                similar = torch.stack([similarity(targets, one) for one in outputs], 1)  # (n, B)
                weighted += torch.einsum("nb,bhw->nhw", similar, masks)
                visible += masks.sum(0)
                total += similar.sum(1)
                done += len(masks)
                if progress is not None:
                    progress(done, self.masks)
            mean = (total / self.masks)[:, None, None]
            return (weighted / visible.clamp(min=1e-6) - mean).clamp(min=0)

    def _masks(self, image: Tensor) -> Iterator[Tensor]:
        """The masks (B, H, W), from 0 to 1, in batches; the same ones for every batch size and device."""
        height, width = image.shape[1:]
        down, across = -(-height // self.cells), -(-width // self.cells)  # pixels of a cell
        random = torch.rand(self.masks, self.cells**2 + 2, generator=torch.Generator().manual_seed(self.seed))
        for rows in random.split(self.batch_size):
            grids = (rows[:, 2:] < self.probability).to(image.device, image.dtype).unflatten(1, (1, self.cells, -1))
            size = ((self.cells + 1) * down, (self.cells + 1) * across)
            large = F.interpolate(grids, size, mode="bilinear", align_corners=False)[:, 0]
            starts = (rows[:, :2] * torch.tensor([down, across])).long().tolist()
            yield torch.stack([one[y : y + height, x : x + width] for one, (y, x) in zip(large, starts, strict=True)])


def similarity(targets: Detections, others: Detections) -> Tensor:
    """The highest similarity of each target (n,) with the detections of another image; 0 where there are none.

    See `DRISE` for what it is made of.
    """
    from torchvision.ops import box_iou

    iou = box_iou(targets["boxes"], others["boxes"])
    if "class_scores" in targets:
        alike = F.normalize(targets["class_scores"], dim=1) @ F.normalize(others["class_scores"], dim=1).T
        objectness = others.get("objectness", torch.ones_like(others["scores"]))
    else:
        alike = targets["labels"][:, None] == others["labels"]
        objectness = others["scores"]
    return F.pad(iou * alike * objectness, (0, 1)).amax(1)


def create_for_detections(
    method: str, detector: nn.Module, layer: Layer | Sequence[Layer] | None = None, **options: Any
) -> DetectionCAM | DRISE:
    """The method of this name for the detections of a detector: "drise", or one of `DetectionCAM`.

    Args:
        method: its name.
        detector: see `DetectionCAM`.
        layer: of a CAM; D-RISE has none.
        options: of `DRISE` or `DetectionCAM`.

    Raises:
        InputError: a layer for D-RISE, and what the method itself raises.
    """
    if method != DRISE.method:
        return DetectionCAM(detector, layer, method, **options)
    if layer is not None:
        raise InputError("D-RISE has no layer; leave it out (--layer)")
    return DRISE(detector, **options)
