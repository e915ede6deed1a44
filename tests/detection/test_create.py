"""Detectors by name: losses, labels, gradients in attention, backbone weights, trainable parameters."""

import copy
import logging

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from regard import attention, detection, models
from regard.errors import InputError

SMALL = {"min_size": 64, "max_size": 96, "channels": 32}
FEW = {"rpn_pre_nms_top_n_train": 50, "rpn_pre_nms_top_n_test": 20, "box_batch_size_per_image": 16}
IMAGES = [torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(1)), torch.ones(3, 72, 64)]


def targets(label: int = 0) -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[5.0, 5, 40, 40], [20, 10, 60, 60]])
    masks = torch.zeros(2, 64, 80, dtype=torch.bool)
    masks[:, 20:40, 20:40] = True
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "masks": torch.zeros(0, 72, 64)}
    return [{"boxes": boxes, "labels": torch.tensor([label, 2]), "masks": masks}, empty]


def small(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    options = {"backbone": "cifar-resnet20", "num_classes": 3, "strides": (1, 2, 4), "frozen_stages": 0, **options}
    options |= {} if options["backbone"] != "cifar-resnet20" else {"backbone_options": {"block": "basic"}}
    options |= FEW if "rcnn" in name else {}
    return detection.create(name, **{**SMALL, **options})


@pytest.mark.parametrize("name", detection.names())
def test_every_detector_trains_its_attention_and_predicts_class_indices(name: str) -> None:
    few = {"box_detections_per_img": 4} if "rcnn" in name else {"detections_per_img": 4, "score_thresh": 0.0}
    detector = small(name, strides=(2, 4), attention="se", **few)
    losses = detector(IMAGES, targets())
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    modules = attention.attached(detector)
    assert len(modules) == 9
    assert all(any(p.grad is not None and p.grad.any() for p in module.parameters()) for module in modules.values())

    detector.eval()
    with torch.no_grad():
        detections = detector(IMAGES)
    for image, prediction in zip(IMAGES, detections, strict=True):
        height, width = image.shape[1:]
        assert len(prediction["boxes"]) == len(prediction["labels"]) == len(prediction["scores"]) == 4
        assert set(prediction["labels"].tolist()) <= {0, 1, 2}
        assert (prediction["boxes"] >= 0).all()
        assert (prediction["boxes"] <= torch.tensor([width, height, width, height])).all()
        assert ("masks" in prediction) == ("mask" in name)
        assert prediction.get("masks", torch.zeros(4, 1, height, width)).shape == (4, 1, height, width)


def test_wrong_targets_and_arguments_are_refused() -> None:
    detector = small("mask-rcnn")
    with pytest.raises(InputError, match="0 to 2"):
        detector(IMAGES, targets(label=3))
    with pytest.raises(InputError, match="needs targets"):
        detector(IMAGES)
    maskless = [{key: value for key, value in target.items() if key != "masks"} for target in targets()]
    with pytest.raises(InputError, match="masks"):
        detector(IMAGES, maskless)
    with pytest.raises(InputError, match="faster-rcnn"):
        small("faster-rccn")
    with pytest.raises(InputError, match="1, 2, 4"):
        small("fcos", strides=(4, 8))
    with pytest.raises(InputError, match="box_score_thresh"):
        small("faster-rcnn", box_scor=0.1)
    with pytest.raises(InputError, match="labels for each image"):
        detector(IMAGES, targets()[:1])
    with pytest.raises(InputError, match="an image of 200 x 2 pixels is too long"):
        small("fcos").eval()([torch.zeros(3, 2, 200)])
    flat = targets()
    flat[0]["boxes"][1, 2] = flat[0]["boxes"][1, 0]
    with pytest.raises(InputError, match=r"targets\[0\] has a box without area, \[20.0, 10.0, 20.0, 60.0\]"):
        detector(IMAGES, flat)
    with pytest.raises(InputError, match="gate is given, and attention is not"):
        small("fcos", gate="sub-attention")
    with pytest.raises(InputError, match="int64"):
        detector(IMAGES, [{**target, "labels": target["labels"].float()} for target in targets()])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("norms", "fixed", "did you mean 'norm'"),
        ("num_classes", 0, "num_classes is 0"),
        ("channels", 31.5, "a whole number"),
        ("frozen_stages", 1.5, "a whole number"),
        ("strides", 4, "not 4; give a list"),
        ("min_size", "big", "min_size is 'big'"),
        ("score_thresh", "low", "score_thresh is 'low'"),
        ("detections_per_img", -1, "detections_per_img is -1"),
        ("head", "small", "head is 'small'"),
    ],
)
def test_options_with_wrong_values_are_refused(option: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        small("retinanet", **{option: value})


def classifier(**options: object) -> nn.Module:
    torch.manual_seed(3)
    model = models.create("cifar-resnet20", 7, block="basic", **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def test_outputs_equal_torchvision_for_the_same_weights() -> None:
    torch.manual_seed(0)
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=3)
    reference = FasterRCNN(body, 4, min_size=64, max_size=96, **FEW)
    for name, value in reference.state_dict().items():
        if name.endswith(("bn2.weight", "running_var")):
            value.fill_(0.5)
    detector = detection.create("faster-rcnn", "resnet18", 3, min_size=64, max_size=96, norm="fixed", **FEW)
    models.load_weights(detector, reference.state_dict(), "torchvision's")  # all names are equal
    trainable = {name for name, parameter in reference.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, parameter in detector.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        expected, actual = reference.eval()(IMAGES), detector.eval()(IMAGES)
        for target, prediction in zip(expected, actual, strict=True):
            torch.testing.assert_close(prediction["boxes"], target["boxes"], rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(prediction["scores"], target["scores"])
            assert torch.equal(prediction["labels"], target["labels"] - 1)
        torch.manual_seed(1)
        expected = reference.train()(IMAGES, [{**target, "labels": target["labels"] + 1} for target in targets()])
        torch.manual_seed(1)
        actual = detector.train()(IMAGES, targets())
    assert actual.keys() == expected.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(actual[name], loss, rtol=1e-3, atol=1e-4)


GROUPS = {"groups": 8}


def sa_resnet() -> nn.Module:
    return models.create("resnet10t", 10, attention="shuffle", attention_options=GROUPS)


def test_a_backbone_loads_a_classification_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    plain = classifier()
    state = {f"module.{name}": value for name, value in plain.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        detector = small("faster-rcnn", pretrained={"state_dict": state})
    body = detector.backbone.body.state_dict()
    assert body.keys() == {name for name in plain.state_dict() if not name.startswith("fc.")}
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in body.items())
    assert f"all {len(body)} tensors" in caplog.text

    attentive = small("faster-rcnn", pretrained=plain.state_dict(), attention="se")  # starts as the identity
    strengths = [module.strength for module in attention.attached(attentive).values()]
    assert len(strengths) == 9
    assert not torch.stack(strengths).any()
    images = torch.rand(1, 3, 64, 64)
    for level, features in detector.eval().backbone(images).items():
        assert features.shape == attentive.eval().backbone(images)[level].shape
    assert torch.equal(
        detector.backbone.body.layer3(images.new_ones(1, 32, 8, 8)),
        attentive.backbone.body.layer3(images.new_ones(1, 32, 8, 8)),
    )

    trained = classifier(attention="se")  # loads the attention too
    detector = small("faster-rcnn", pretrained=trained.state_dict(), attention="se")
    assert torch.equal(detector.backbone.body.layer1[0].attention.fc1.weight, trained.layer1[0].attention.fc1.weight)
    official = {f"module.{name.replace('.se.', '.sa.')}": value for name, value in sa_resnet().state_dict().items()}
    detector = detection.create(
        "fcos", "resnet10t", 3, pretrained=official, attention="shuffle", attention_options=GROUPS
    )
    assert torch.equal(detector.backbone.body.layer4[0].se.sbias, official["module.layer4.0.sa.sbias"])
    with pytest.raises(InputError, match="left over"):
        small("faster-rcnn", pretrained=trained.state_dict())
    with pytest.raises(InputError, match="of another shape"):
        small(
            "faster-rcnn",
            backbone="cifar-resnet20x2",
            backbone_options={"block": "basic"},
            pretrained=plain.state_dict(),
        )


@pytest.mark.parametrize("norm", ["statistics", "fixed", "batch", "group"])
def test_norms_and_frozen_stages_determine_what_trains(norm: str) -> None:
    detector = small("faster-rcnn", norm=norm, frozen_stages=1, attention="cbam").train()
    body = detector.backbone.body
    before = copy.deepcopy(body.state_dict())
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.01)
    sum(detector(IMAGES, targets()).values()).backward()
    optimizer.step()
    changed = {name for name, value in body.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in changed if name.startswith(("conv1", "bn1", "layer1"))} == set()
    assert ("layer2.0.bn1.weight" in changed) == (norm != "fixed")
    assert ("layer2.0.bn1.running_mean" in changed) == (norm == "batch")
    assert ("layer2.0.bn1.running_mean" in before) == (norm != "group")
    attention_names = {name for name, module in attention.attached(body).items() if name.startswith("layer2")}
    assert any(name.endswith("running_mean") and name.startswith(tuple(attention_names)) for name in changed)
    norms = [
        part for part in copy.deepcopy(detector).train().backbone.body.layer1.modules() if hasattr(part, "momentum")
    ]
    assert not any(part.training for part in norms)
