"""CAMs of detections."""

from __future__ import annotations

import warnings
from itertools import pairwise

import pytest
import torch
from support.detectors import Boxes, one_stage, two_stage
from torch import Tensor, nn

from regard import bias, detection, maps
from regard.errors import DataWarning, InputError

IMAGE = torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(1))


def level(number: int) -> str:
    return f"backbone.fpn.layer_blocks.{number}"


def create_with_warning(detector: nn.Module, layer: str, method: str = "layercam") -> maps.DetectionCAM:
    with pytest.warns(DataWarning, match="feature pyramid"):
        return maps.DetectionCAM(detector, layer, method)


def mask_boxes(cells: Tensor, boxes: Tensor, image: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Masks (n, h, w), bool, of the cells that each box pools from bilinearly."""
    inside = torch.zeros_like(cells, dtype=torch.bool)
    scale_y, scale_x = (
        resized * cell / (padded_length * length)
        for resized, cell, padded_length, length in zip(size, cells.shape[1:], padded, image.shape[1:], strict=True)
    )
    for mask, (x0, y0, x1, y1) in zip(inside, boxes.tolist(), strict=True):
        mask[int(y0 * scale_y) : int(y1 * scale_y + 1e-4) + 2, int(x0 * scale_x) : int(x1 * scale_x + 1e-4) + 2] = True
    return inside


@pytest.mark.parametrize("make", [two_stage, one_stage])
@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_maps_follow_the_formula_for_each_score(make, method: str) -> None:
    detector = make()
    cam = maps.DetectionCAM(detector, method=method)
    result = cam(IMAGE, upsample=False)
    saved: list[Tensor] = []
    with torch.enable_grad():
        handle = detector.backbone.body["layer3"].register_forward_hook(lambda m, i, output: saved.append(output))
        (detections,) = detector([IMAGE])
        handle.remove()
        assert cam.layer == "backbone.body.layer3"
        assert len(result) == len(detections["scores"]) == 6
        for i, score in enumerate(detections["scores"]):
            gradient, features = torch.autograd.grad(score, saved, retain_graph=True)[0][0], saved[0][0].detach()
            weights = gradient.mean((1, 2), keepdim=True) if method == "gradcam" else gradient
            torch.testing.assert_close(result[i], (weights * features).sum(0).relu())
    assert cam.detections is not None
    assert torch.equal(cam.detections["boxes"], detections["boxes"])
    assert not cam.detections["scores"].requires_grad
    scores = cam.detections["scores"].tolist()
    assert all(a >= b for a, b in pairwise(scores))
    assert len(cam(IMAGE, limit=2)) == 2
    assert len(cam(IMAGE, score_threshold=scores[2])) == sum(score >= scores[2] for score in scores)


@pytest.mark.parametrize("name", ["cascade-rcnn", "retinanet"])
def test_default_layer_of_regard_detectors_is_the_last_stage(name: str) -> None:
    """The pyramid reads the stages through its own hooks, which exist after the first call."""
    limits = {"detections_per_img": 3, "score_thresh": 0.0}
    if name != "retinanet":
        limits = {"box_detections_per_img": 3, "rpn_post_nms_top_n_test": 20}
    torch.manual_seed(0)
    options = {"strides": (1, 2, 4), "frozen_stages": 0, "channels": 16, "min_size": 32, "max_size": 48, **limits}
    detector = detection.create(name, "cifar-resnet20", 3, backbone_options={"block": "basic"}, **options).eval()
    cam = maps.DetectionCAM(detector, method="layercam")
    first, second = cam(IMAGE), cam(IMAGE)
    assert cam.layer == "backbone.body.layer3"
    assert first.shape == (3, 70, 90) and first.any()
    torch.testing.assert_close(first, second)


def test_the_detector_is_unchanged(unchanged) -> None:
    detector = two_stage().train()
    detector.backbone.body.layer1.requires_grad_(False)
    with unchanged(detector):
        assert maps.DetectionCAM(detector)(IMAGE).shape == (6, 70, 90)
    with torch.no_grad(), torch.autocast("cpu"):
        assert maps.DetectionCAM(detector)(IMAGE).dtype == torch.float32


def test_maps_account_for_resizing_and_padding() -> None:
    """Images are resized from 50 x 75 to 48 x 72 pixels, and padded to 64 x 96."""
    detector = Boxes([[10, 5, 30, 25], [50, 30, 75, 50]], [0, 2])
    image = torch.rand(3, 50, 75) + torch.tensor([0.6, 0, 0.5])[:, None, None]  # the first box has the higher score
    cam = maps.DetectionCAM(detector, "backbone", "layercam")
    result = cam(image)
    assert result.shape == (2, 50, 75)
    regions = torch.zeros(2, 50, 75, dtype=torch.bool)
    for region, (x0, y0, x1, y1) in zip(regions, detector.boxes.int().tolist(), strict=True):
        region[y0:y1, x0:x1] = True
    measures = bias.measure(result, regions)
    assert (measures.energy_inside > 0.93).all()  # the rest lies in the row of pixels next to an edge
    assert bias.measure(result, regions, margin=2).range_bias.sum() == 0
    assert (measures.miss < 0.6).all()
    assert cam(image, upsample=False).shape == (2, 64, 96)


def test_maps_at_a_pyramid_level_stay_inside_their_box() -> None:
    """A box has a map at its own level only. At the last stage of the body, maps reach outside their box."""
    detector = two_stage()
    at_body = maps.DetectionCAM(detector, method="layercam")
    body = at_body(IMAGE, upsample=False)
    assert at_body.detections is not None
    boxes = at_body.detections["boxes"]
    size = (64, round(64 / 70 * 90))  # the image is resized to 64 x 82 pixels, and padded to 64 x 96

    def share(cells: Tensor) -> Tensor:
        inside = mask_boxes(cells, boxes, IMAGE, (64, 96), size)
        return (cells * inside).sum((1, 2)) / cells.sum((1, 2))

    shares = torch.stack([share(create_with_warning(detector, level(i))(IMAGE, upsample=False)) for i in range(3)])
    assigned = ~shares.isnan()
    assert (assigned.sum(0) == 1).all()  # each box has a map at one level
    assert assigned.any(1).sum() > 1  # and not all at the same level
    torch.testing.assert_close(shares[assigned], torch.ones(6))
    assert share(body).mean() < 0.95
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps.DetectionCAM(detector)


def test_one_stage_levels_show_only_their_own_detections() -> None:
    detector = one_stage(detections=12)
    sums = torch.stack([create_with_warning(detector, level(i))(IMAGE).sum((1, 2)) for i in range(3)])
    assert ((sums > 0).sum(0) <= 1).all()
    assert (sums > 0).any()


class Constant(Boxes):
    """A detector with a constant second score."""

    def forward(self, images: list[Tensor], targets: None = None) -> list[dict[str, Tensor]]:
        (detections,) = super().forward(images)
        scores = torch.stack([detections["scores"][0], torch.tensor(0.9)])
        return [{**detections, "scores": scores}]


def test_constant_scores_give_zero_maps_and_no_detections_none() -> None:
    image = torch.rand(3, 40, 60) / 2
    cam = maps.DetectionCAM(Constant([[0, 0, 20, 20], [20, 20, 40, 40]], [0, 1]), "backbone")
    result = cam(image)
    assert cam.detections is not None and cam.detections["labels"].tolist() == [1, 0]  # highest score first
    assert not result[0].any() and result[1].any()
    assert bias.measure(result, torch.ones(2, 40, 60, dtype=torch.bool)).constant.tolist() == [True, False]
    assert cam(image, score_threshold=0.95).shape == (0, 40, 60)
    assert cam(image, score_threshold=0.95, upsample=False).shape == (0, 64, 96)


class Classifier(Boxes):
    def forward(self, images: list[Tensor], targets: None = None) -> Tensor:
        return self.backbone(torch.stack(images)).mean((2, 3))


@pytest.mark.parametrize(
    ("make", "image", "message"),
    [
        (lambda: maps.DetectionCAM(two_stage()), torch.rand(1, 3, 8, 8), r"\(1, 3, 8, 8\); expected"),
        (lambda: maps.DetectionCAM(two_stage()), torch.zeros(3, 8, 8, dtype=torch.uint8), "uint8"),
        (lambda: maps.DetectionCAM(two_stage(), "backbone.body.layer9"), IMAGE, "unknown layer"),
        (lambda: maps.DetectionCAM(two_stage(), "roi_heads.box_head.1"), IMAGE, "gives a tensor of shape"),
        (lambda: maps.DetectionCAM(two_stage(), "rpn.head.conv"), IMAGE, "scores do not depend on layer"),
        (lambda: maps.DetectionCAM(two_stage(), method="gradient"), IMAGE, "hirescam"),
        (lambda: maps.DetectionCAM(two_stage(), method="camcam"), IMAGE, "unknown method"),
        (lambda: maps.DetectionCAM(nn.Conv2d(3, 3, 1)), IMAGE, "has no backbone"),
        (lambda: maps.DetectionCAM(Classifier([], []), "backbone"), IMAGE, "gives a Tensor; expected a detector"),
    ],
)
def test_wrong_input_fails(make, image: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()(image)
