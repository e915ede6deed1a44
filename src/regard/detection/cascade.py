"""Cascade R-CNN (Cai and Vasconcelos, arXiv 1712.00726) on torchvision's ROI heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import clip_boxes_to_image

# Per stage (section 4.3; the regression weights as in the published code).
IOU = (0.5, 0.6, 0.7)
_REGRESSION_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
_LOSS_WEIGHTS = (1.0, 0.5, 0.25)


class AgnosticPredictor(FastRCNNPredictor):
    """Predicts class scores (N, K) and one box, repeated for each class as torchvision expects, (N, 4 * K)."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return scores, deltas.repeat(1, scores.shape[1])


class CascadeHeads(RoIHeads):
    """Three box heads in sequence, each trained on the boxes of the previous one, with increasing IoU thresholds.

    The last head is torchvision's own, followed by the mask branch if there is one. In evaluation, scores are the mean
    of the three probabilities, each for the input boxes of its head, and the last head gives the boxes.

    Args:
        heads: heads of a two-stage detector of torchvision, which give sampling, pooling, thresholds and mask branch.
        num_classes: number of classes, including the background.
    """

    def __init__(self, heads: RoIHeads, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(heads.__dict__)  # including the modules
        features, width = heads.box_head.fc6.in_features, heads.box_head.fc7.out_features
        self.box_heads = nn.ModuleList(TwoMLPHead(features, width) for _ in IOU[1:])
        self.box_predictors = nn.ModuleList(AgnosticPredictor(width, num_classes) for _ in IOU[1:])
        self.box_predictor = AgnosticPredictor(width, num_classes)
        self.matchers = [Matcher(iou, iou, allow_low_quality_matches=False) for iou in IOU]
        self.coders = [BoxCoder(weights) for weights in _REGRESSION_WEIGHTS]
        self._probabilities: list[Tensor] = []

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        losses: dict[str, Tensor] = {}
        self._probabilities = []
        for number, (head, predictor) in enumerate(zip(self.box_heads, self.box_predictors, strict=True)):
            self.proposal_matcher, self.box_coder = self.matchers[number], self.coders[number]
            if self.training:
                proposals, _, labels, regression = self.select_training_samples(proposals, targets)
            logits, deltas = predictor(head(self.box_roi_pool(features, proposals, image_shapes)))
            if self.training:
                self._add(losses, number, *fastrcnn_loss(logits, deltas, labels, regression))
            else:
                self._probabilities.append(logits.softmax(-1))
            proposals = self._refine(deltas[:, :4].detach(), proposals, image_shapes)
        self.proposal_matcher, self.box_coder = self.matchers[-1], self.coders[-1]
        detections, last = super().forward(features, proposals, image_shapes, targets)
        if self.training:
            self._add(losses, len(self.box_heads), last.pop("loss_classifier"), last.pop("loss_box_reg"))
        return detections, {**losses, **last}

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        mean = torch.stack([*self._probabilities, class_logits.softmax(-1)]).mean(0)
        self._probabilities = []
        # torchvision expects logits; the softmax of log-probabilities gives the probabilities
        boxes, scores, labels = super().postprocess_detections(mean.log(), box_regression, proposals, image_shapes)
        return boxes, scores, labels

    def _refine(self, deltas: Tensor, proposals: list[Tensor], image_shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Decodes and clips the boxes of a stage; in training, boxes without area are removed."""
        decoded = self.box_coder.decode(deltas, proposals).squeeze(1).split([len(boxes) for boxes in proposals])
        clipped = [clip_boxes_to_image(boxes, shape) for boxes, shape in zip(decoded, image_shapes, strict=True)]
        return [boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)] for boxes in clipped] if self.training else clipped

    def _add(self, losses: dict[str, Tensor], number: int, classification: Tensor, regression: Tensor) -> None:
        weight = _LOSS_WEIGHTS[number]
        losses[f"loss_classifier_{number + 1}"] = weight * classification
        losses[f"loss_box_reg_{number + 1}"] = weight * regression
