"""Cascade R-CNN (Cai and Vasconcelos, arXiv 1712.00726) on torchvision's ROI heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import clip_boxes_to_image

# Of each stage (section 4.3; the standard deviations of the regression targets as in the published code).
IOU = (0.5, 0.6, 0.7)
_REGRESSION_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
_LOSS_WEIGHTS = (1.0, 0.5, 0.25)


class AgnosticPredictor(FastRCNNPredictor):
    """Class scores, and one box for all classes, repeated for each as torchvision's losses and decoding expect.

    Shape: (N, F) -> (N, classes), (N, 4 * classes).
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return scores, deltas.repeat(1, scores.shape[1])


class CascadeHeads(RoIHeads):
    """Three box heads in a row, each trained on the boxes of the one before, at rising overlaps.

    The last is torchvision's own, with the mask branch, if there is one, behind it. In evaluation the probabilities
    of all three are averaged, each for the boxes that it was given, and the last gives the boxes.

    Args:
        heads: of a two-stage detector of torchvision; its sampling, pooling, thresholds and mask branch are taken over.
        num_classes: with the background.
    """

    def __init__(self, heads: RoIHeads, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(heads.__dict__)  # the modules included
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
            proposals = self._refined(deltas[:, :4].detach(), proposals, image_shapes)
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
        # torchvision takes logits; the softmax of logarithms of probabilities are these
        boxes, scores, labels = super().postprocess_detections(mean.log(), box_regression, proposals, image_shapes)
        return boxes, scores, labels

    def _refined(
        self, deltas: Tensor, proposals: list[Tensor], image_shapes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """The boxes that a stage makes of its proposals; in training without those that have no area left."""
        decoded = self.box_coder.decode(deltas, proposals).squeeze(1).split([boxes.shape[0] for boxes in proposals])
        boxes = [clip_boxes_to_image(part, shape) for part, shape in zip(decoded, image_shapes, strict=True)]
        return [part[(part[:, 2:] > part[:, :2]).all(1)] for part in boxes] if self.training else boxes

    def _add(self, losses: dict[str, Tensor], number: int, classification: Tensor, regression: Tensor) -> None:
        weight = _LOSS_WEIGHTS[number]
        losses[f"loss_classifier_{number + 1}"] = weight * classification
        losses[f"loss_box_reg_{number + 1}"] = weight * regression
