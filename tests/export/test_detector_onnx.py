"""ONNX files of detectors: onnxruntime and torch give the same detections, on images of any size."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from regard import detection, export

pytestmark = pytest.mark.slow

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def detector(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "ssd":  # its images have one size
        backbone = nn.Sequential(nn.Conv2d(3, 16, 3, stride=4), nn.ReLU())
        model = SSD(backbone, DefaultBoxGenerator([[2]]), (64, 48), 3, image_mean=[0.5] * 3)
        nn.init.normal_(model.head.classification_head.module_list[0].weight)
        return model
    model = detection.create(
        name, "cifar-resnet8", 3, strides=(2, 4), backbone_options={"block": "basic"}, channels=32, min_size=96,
        max_size=200, attention="shuffle", attention_options={"groups": 4}
    )  # fmt: skip
    for name, parameter in model.named_parameters():  # makes the scores differ
        if name.endswith(("cls_logits.weight", "cls_score.weight")):
            nn.init.normal_(parameter, std=0.3)
        if name.endswith("cls_logits.bias"):
            nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("name", ["faster-rcnn", "retinanet", "ssd"])
def test_onnxruntime_and_torch_detect_the_same_objects(name: str, tmp_path: Path) -> None:
    model, path = detector(name), tmp_path / "detector.onnx"
    assert model.training
    file = export.detector_to_onnx(model, path, (80, 100), metadata={"classes": ["a", "b", "c"]})
    assert file.difference <= 1e-4
    assert model.training
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for height, width in ((80, 100), (97, 131), (60, 200), (480, 640)):  # sides are rounded, or the longer side limits
        image = torch.rand(3, height, width)
        boxes, labels, scores = map(
            torch.from_numpy, session.run(["boxes", "labels", "scores"], {"image": image.numpy()})
        )
        with torch.no_grad():
            (expected,) = model.eval()([image])
        # Which of two boxes with equal scores is suppressed may differ.
        assert len(boxes) == pytest.approx(len(expected["boxes"]), abs=3)
        assert len(boxes) > 20
        distance = (boxes[:, None] - expected["boxes"]).abs().amax(2) + 1000 * (labels[:, None] != expected["labels"])
        nearest, index = distance.min(1)
        close = (nearest < 1e-3 * width) & ((scores - expected["scores"][index]).abs() < 1e-4)
        assert close.float().mean() > 0.95
