"""Cascade R-CNN (arXiv 1712.00726): its stages compared with computations by hand."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, nms

from regard import detection

SIZE = (64, 80)


def heads() -> nn.Module:
    torch.manual_seed(0)
    detector = detection.create(
        "cascade-rcnn", "cifar-resnet8", 3, strides=(2, 4), channels=8, backbone_options={"block": "basic"},
        box_nms_thresh=0.6, box_score_thresh=0.2, box_batch_size_per_image=8,
    )  # fmt: skip
    for predictor in (*detector.roi_heads.box_predictors, detector.roi_heads.box_predictor):
        nn.init.normal_(predictor.cls_score.weight, std=0.05)
        nn.init.normal_(predictor.bbox_pred.weight, std=0.01)
    return detector.roi_heads


def decode(boxes: Tensor, deltas: Tensor, weights: tuple[float, float]) -> Tensor:
    """Applies deltas to boxes (Girshick et al., arXiv 1311.2524, appendix C) and clips them to the image."""
    sides, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    centres, sides = centres + deltas[:, :2] / weights[0] * sides, sides * (deltas[:, 2:] / weights[1]).exp()
    corners = torch.cat((centres - sides / 2, centres + sides / 2), 1)
    return torch.minimum(corners.clamp(min=0), corners.new_tensor([SIZE[1], SIZE[0]] * 2))


def scene() -> tuple[OrderedDict[str, Tensor], Tensor]:
    features = OrderedDict((str(i), torch.randn(1, 8, SIZE[0] // s, SIZE[1] // s)) for i, s in enumerate((2, 4)))
    corners = torch.rand(6, 2) * 30
    return features, torch.cat((corners, corners + 8 + torch.rand(6, 2) * 30), 1)


def test_detections_equal_the_computation_by_hand() -> None:
    cascade = heads().eval()
    features, boxes = scene()
    with torch.no_grad():
        (detections,), losses = cascade(features, [boxes], [SIZE])
        probabilities = 0
        stages = [
            *zip(cascade.box_heads, cascade.box_predictors, strict=True),
            (cascade.box_head, cascade.box_predictor),
        ]
        for (head, predictor), weights in zip(stages, ((10, 5), (20, 10), (30, 15)), strict=True):
            x = head(cascade.box_roi_pool(features, [boxes], [SIZE]))
            probabilities = probabilities + predictor.cls_score(x).softmax(1) / 3
            boxes = decode(boxes, predictor.bbox_pred(x), weights)
    assert losses == {}
    expected = []
    for label in range(3):
        scores = probabilities[:, label + 1]
        likely = (scores > 0.2).nonzero().flatten()
        indices = likely[nms(boxes[likely], scores[likely], 0.6)]
        expected += [(float(scores[i]), label, boxes[i]) for i in indices]
    expected.sort(key=lambda scored: -scored[0])
    assert len(expected) == len(detections["scores"]) > 3
    torch.testing.assert_close(detections["scores"], torch.tensor([score for score, _, _ in expected]))
    assert (detections["labels"] - 1).tolist() == [label for _, label, _ in expected]
    torch.testing.assert_close(detections["boxes"], torch.stack([box for _, _, box in expected]))


def test_stages_train_with_rising_overlap_and_falling_loss_weights(monkeypatch) -> None:
    cascade = heads().train()
    features, boxes = scene()
    ground_truth = boxes[:2] + torch.tensor([1.0, 1, 2, 0])
    stage_proposals, losses, positive = [], [], []

    def recorded_loss(
        logits: Tensor, deltas: Tensor, labels: list[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        losses.append(F.cross_entropy(logits, torch.cat(labels)))
        positive.append(torch.cat(labels) > 0)
        return losses[-1], deltas.sum() * 0 + 1

    pool = cascade.box_roi_pool
    monkeypatch.setattr("regard.detection.cascade.fastrcnn_loss", recorded_loss)
    monkeypatch.setattr("torchvision.models.detection.roi_heads.fastrcnn_loss", recorded_loss)
    pool.register_forward_hook(lambda _, args, __: stage_proposals.append(args[1][0]))
    target = {"boxes": ground_truth, "labels": torch.tensor([1, 2])}
    _, weighted_losses = cascade(features, [boxes], [SIZE], [target])
    assert list(weighted_losses) == [f"loss_{kind}_{i}" for i in (1, 2, 3) for kind in ("classifier", "box_reg")]
    for number, weight in enumerate((1, 0.5, 0.25)):
        torch.testing.assert_close(weighted_losses[f"loss_classifier_{number + 1}"], weight * losses[number])
        assert weighted_losses[f"loss_box_reg_{number + 1}"] == weight
    for proposals, is_positive, threshold in zip(stage_proposals, positive, (0.5, 0.6, 0.7), strict=True):
        assert torch.equal(is_positive, box_iou(ground_truth, proposals).amax(0) >= threshold)
        assert is_positive.any()
    sum(weighted_losses.values()).backward()
    assert all(p.grad is not None for predictor in cascade.box_predictors for p in predictor.cls_score.parameters())
