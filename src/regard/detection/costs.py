"""The parameters and operations of detectors, counted as in SA-Net's table of object detection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads

from regard import models
from regard.detection.cascade import CascadeHeads
from regard.detection.create import Detector, create
from regard.models.costs import Cost

PROPOSALS, MASKS = 1000, 100  # largest number of regions for the box and the mask head of a two-stage detector


def complexity(detector: nn.Module, image_size: int | tuple[int, int] = (800, 1280)) -> models.Complexity:
    """Counts the trainable parameters of a detector, and its operations for one image.

    Each box head of a two-stage detector runs on 1,000 proposals, and the mask head on 100 detections. Resizing,
    pooling of regions, decoding and suppression are not counted.

    Args:
        image_size: side of the image in pixels, or (H, W).

    Raises:
        InputError: the backbone does not take an image of that size.
    """
    counted = models.complexity(_Heads(detector), image_size)
    return replace(counted, parameters=sum(p.numel() for p in detector.parameters() if p.requires_grad))


class _Heads(nn.Module):
    """Runs the backbone and the heads of a detector, with the largest number of regions."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> None:
        detector: Any = self.detector
        levels = list(detector.backbone(images).values())
        if not hasattr(detector, "roi_heads"):
            detector.head(levels)
            return
        detector.rpn.head(levels)
        heads: RoIHeads = detector.roi_heads
        earlier = zip(heads.box_heads, heads.box_predictors, strict=True) if isinstance(heads, CascadeHeads) else ()
        regions = images.new_zeros(PROPOSALS, detector.backbone.out_channels, *heads.box_roi_pool.output_size)
        for head, predictor in (*earlier, (heads.box_head, heads.box_predictor)):
            predictor(head(regions))
        if heads.has_mask():
            regions = images.new_zeros(MASKS, detector.backbone.out_channels, *heads.mask_roi_pool.output_size)
            heads.mask_predictor(heads.mask_head(regions))


@dataclass
class DetectorCost(Cost):
    """The cost of a detector whose backbone is the network, with the stem and the first stage frozen.

    Attributes:
        detector: name of the detector, as in `detection.create`.
        detector_options: options of the detector.
    """

    detector: str = "faster-rcnn"
    detector_options: Mapping[str, Any] = field(default_factory=dict)

    def customary(self) -> tuple[tuple[int, int], int]:
        return (800, 1280), 80

    def build(self) -> Detector:
        options = {"backbone_options": self.network_options, **self.detector_options}
        return create(self.detector, self.network, self.classes, **self._attention(), **options)

    def count(self, model: nn.Module) -> models.Complexity:
        return complexity(model, self.image_size)
