"""What detectors cost, beside the values of SA-Net's table of object detection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads

from regard import models
from regard.detection.cascade import CascadeHeads
from regard.detection.create import Detector, create
from regard.models.costs import Cost, Published

PROPOSALS, MASKS = 1000, 100  # that the box and the mask heads of a two-stage detector get, at the most


def complexity(detector: nn.Module, image_size: tuple[int, int] = (800, 1280)) -> models.Complexity:
    """Parameters that learn, and the operations of one image of (H, W), without resizing, decoding and suppression.

    The box heads of a two-stage detector run on 1,000 proposals, those of a cascade each, and the mask head on 100
    detections. Pooling of regions is not counted.

    Raises:
        InputError: the backbone does not take an image of that size.
    """
    counted = models.complexity(_Heads(detector), image_size)
    return replace(counted, parameters=sum(p.numel() for p in detector.parameters() if p.requires_grad))


class _Heads(nn.Module):
    """Backbone and heads of a detector on one batch of images, as many regions as there can be."""

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
        detector: its name, as in `detection.create`.
        detector_options: its own options.
    """

    detector: str = "faster-rcnn"
    detector_options: Mapping[str, Any] = field(default_factory=dict)

    def customary(self) -> tuple[tuple[int, int], int]:
        return (800, 1280), 80

    def build(self) -> Detector:
        return create(
            self.detector,
            self.network,
            self.classes,
            attention=self.attention,
            gate=self.gate,
            attention_stages=None if self.attention is None else self.stages,
            attention_options=None if self.attention is None else self.options,
            backbone_options=self.network_options,
            **self.detector_options,
        )

    def count(self, model: nn.Module) -> models.Complexity:
        size = self.image_size
        return complexity(model, (size, size) if isinstance(size, int) else size)

    def table(self) -> tuple[dict[str, Any], dict[tuple[str, str], Published]]:
        table, rows = _sa_net()
        return table, rows.get(self.detector, {})

    def to_record(self) -> dict[str, Any]:
        return {**super().to_record(), "detector": self.detector}


@cache
def _sa_net() -> tuple[dict[str, Any], dict[str, dict[tuple[str, str], Published]]]:
    table = yaml.safe_load((files("regard.detection") / "sa_net.yaml").read_text(encoding="utf-8"))
    table["image_size"] = tuple(table["image_size"])
    rows: dict[str, dict[tuple[str, str], Published]] = {}
    for row in table["rows"]:
        detector, attention = row["detector"], row["attention"]
        note = "; ".join(filter(None, (table["notes"].get(part, "") for part in (detector, attention))))
        published = Published(row["parameters"], row["gflops"], note)
        rows.setdefault(detector, {})[row["network"], attention] = published
    return table, rows
