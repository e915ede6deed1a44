"""Small detectors with torchvision's interface, and one whose scores follow from the pixels."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

CHANNELS = 8
_SIDE = 64  # pixels of the shorter side
_LEVELS = ("0", "1", "2")


def two_stage(*, seed: int = 0, detections: int = 6) -> FasterRCNN:
    """A Faster R-CNN on a pyramid of strides 4, 8 and 16, with box regression of zero: boxes are anchors of 16, 32 and
    64 pixels, and each is pooled at the location where it is detected."""
    torch.manual_seed(seed)
    detector = FasterRCNN(
        _backbone(),
        num_classes=4,
        min_size=_SIDE,
        max_size=2 * _SIDE,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,), (128,)), ((1.0,),) * 4),
        box_roi_pool=MultiScaleRoIAlign(_LEVELS, 4, 2, canonical_scale=32, canonical_level=3),
        rpn_post_nms_top_n_test=60,
        rpn_nms_thresh=0.9,
        box_score_thresh=0.0,
        box_nms_thresh=0.3,
        box_detections_per_img=detections,
    )
    detector.roi_heads.box_head = nn.Sequential(nn.Flatten(), nn.Linear(16 * CHANNELS, 1024), nn.ReLU())
    for layer in (detector.rpn.head.bbox_pred, detector.roi_heads.box_predictor.bbox_pred):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return detector.eval()


def one_stage(*, seed: int = 0, detections: int = 6) -> RetinaNet:
    """A RetinaNet on the same pyramid."""
    torch.manual_seed(seed)
    anchors = AnchorGenerator(((16,), (32,), (64,), (128,)), ((1.0,),) * 4)
    return RetinaNet(
        _backbone(),
        3,
        min_size=_SIDE,
        max_size=2 * _SIDE,
        anchor_generator=anchors,
        score_thresh=0.0,
        detections_per_img=detections,
    ).eval()


class Boxes(nn.Module):
    """A detector with fixed boxes, whose scores depend on the mean brightness in these boxes alone.

    Class 0 scores red, 1 green, 2 blue. The backbone is the identity; the transform resizes images to a shorter side
    of 48 pixels and pads them to multiples of 32.

    Args:
        boxes: left, top, right and bottom of the detections.
        labels: their classes.
        evidence: boxes to compute the scores in, instead of `boxes`.
    """

    def __init__(self, boxes: list[list[float]], labels: list[int], evidence: list[list[float]] | None = None) -> None:
        super().__init__()
        self.transform = GeneralizedRCNNTransform(48, 96, [0.0] * 3, [1.0] * 3)
        self.backbone = nn.Conv2d(3, 3, 1, bias=False)
        self.backbone.weight.data = torch.eye(3)[:, :, None, None]
        self.boxes, self.labels = torch.tensor(boxes), torch.tensor(labels)
        self.evidence = torch.tensor(boxes if evidence is None else evidence)

    def forward(self, images: list[Tensor], targets: None = None) -> list[dict[str, Tensor]]:
        sizes = [image.shape[-2:] for image in images]
        padded, _ = self.transform(images)
        features = self.backbone(padded.tensors)
        detections = []
        for i, (h, w) in enumerate(padded.image_sizes):
            scale = torch.tensor([w / sizes[i][1], h / sizes[i][0]]).repeat(2)
            scores = [
                features[i, label, y0:y1, x0:x1].mean()
                for label, (x0, y0, x1, y1) in zip(
                    self.labels, (self.evidence * scale).round().int().tolist(), strict=True
                )
            ]
            detections.append({"boxes": self.boxes * scale, "labels": self.labels, "scores": torch.stack(scores)})
        return self.transform.postprocess(detections, padded.image_sizes, sizes)


def _backbone() -> BackboneWithFPN:
    layers = OrderedDict()
    for i, (width, stride) in enumerate(((3, 4), (CHANNELS, 2), (CHANNELS, 2)), 1):
        layers[f"layer{i}"] = nn.Sequential(nn.Conv2d(width, CHANNELS, 3, stride, padding=1), nn.ReLU())
    returned = {name: level for name, level in zip(layers, _LEVELS, strict=True)}
    return BackboneWithFPN(nn.Sequential(layers), returned, [CHANNELS] * 3, CHANNELS)
