"""The feature pyramid on any network: its levels, attention before and after it, compilation, copies."""

import copy
import pickle

import pytest
import torch

from regard import attention, detection, models
from regard.errors import InputError

# Network -> the stages of strides 4, 8, 16, 32, and the modules behind the last stage, which are removed.
NETWORKS = {
    "resnet10t": (["layer1", "layer2", "layer3", "layer4"], {"fc"}),
    "regnety_002": (["s1", "s2", "s3", "s4"], {"head"}),
    "convnext_atto": (["stages.0", "stages.1", "stages.2", "stages.3"], {"head"}),
    "efficientnet_lite0": (["blocks.1", "blocks.2", "blocks.4", "blocks.6"], {"conv_head", "bn2", "classifier"}),
    "mobilenetv3_small_050": (["blocks.0", "blocks.1", "blocks.3", "blocks.5"], {"conv_head", "classifier"}),
    "torchvision/densenet121": ([f"features.denseblock{i}" for i in (1, 2, 3, 4)], {"features.norm5", "classifier"}),
    "torchvision/mobilenet_v2": ([f"features.{i}" for i in (3, 6, 13, 17)], {"features.18", "classifier"}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_levels_are_the_last_stage_of_every_stride(name: str) -> None:
    model = models.create(name, 10)
    before = set(model.state_dict())
    pyramid = detection.Pyramid(model, channels=8, extra="p6p7").eval()
    stages, removed = NETWORKS[name]
    assert list(pyramid.levels.values()) == stages
    assert pyramid.strides == (4, 8, 16, 32, 64, 128)
    with torch.no_grad():
        features = pyramid(torch.rand(1, 3, 64, 128))
    assert [tuple(level.shape) for level in features.values()] == [
        (1, 8, -(-64 // s), -(-128 // s)) for s in pyramid.strides
    ]
    missing = before - set(pyramid.body.state_dict())
    assert {next(part for part in removed if name.startswith(f"{part}.")) for name in missing} == removed


def test_attention_works_attached_before_or_after_building_the_pyramid() -> None:
    torch.manual_seed(0)
    plain = models.create("torchvision/mobilenet_v2", 10)
    images = torch.rand(1, 3, 32, 32)
    before, after = copy.deepcopy(plain), detection.Pyramid(copy.deepcopy(plain), channels=8)
    torch.manual_seed(1)
    before = detection.Pyramid(attention.attach(before, "se", where="block"), channels=8)
    torch.manual_seed(1)
    after.eval()(images)  # its hooks are registered
    attention.attach(after.body, "se", where="block")
    after.fpn.load_state_dict(before.fpn.state_dict())
    with torch.no_grad():
        first, second = before.eval()(images), after.eval()(images)
        copied = pickle.loads(pickle.dumps(copy.deepcopy(after)))(images)
        plain_pyramid = detection.Pyramid(plain, channels=8).eval()
        plain_pyramid.fpn.load_state_dict(before.fpn.state_dict())
        plain_features = plain_pyramid(images)
        attention.detach(after.body)
        detached = after(images)
    assert before.state_dict().keys() == {
        *after.state_dict().keys(),
        *(k for k in before.state_dict() if "attention" in k),
    }
    for level in first:
        assert torch.equal(first[level], second[level])
        assert torch.equal(first[level], copied[level])
        assert torch.equal(plain_features[level], detached[level])
        assert not torch.equal(first[level], plain_features[level])


@pytest.mark.slow
def test_a_pyramid_compiles_into_one_graph_and_trains() -> None:
    pyramid = detection.Pyramid(models.create("cifar-resnet8", 10, block="basic"), (1, 2, 4), 8, "pool")
    compiled = torch.compile(pyramid, backend="eager", fullgraph=True)
    images = torch.rand(2, 3, 32, 32)
    for level, features in pyramid.eval()(images).items():
        assert torch.equal(features, compiled(images)[level])
    sum(level.sum() for level in compiled(images).values()).backward()
    assert all(p.grad is not None for p in pyramid.parameters())


def test_attention_attaches_to_a_detector_backbone_in_training_mode() -> None:
    detector = detection.create("retinanet", "torchvision/densenet121", 2, channels=8).train()
    attention.attach(detector, "se", where="stage")
    assert list(attention.attached(detector)) == [
        f"backbone.body.features.denseblock{i}.attention" for i in (1, 2, 3, 4)
    ]


def test_networks_without_the_needed_stages_are_refused() -> None:
    with pytest.raises(InputError, match="strides 1, 2, 4"):
        detection.Pyramid(models.create("cifar-resnet20", 10, block="basic"))
    with pytest.raises(InputError, match="no stage that outputs features"):
        detection.Pyramid(models.create("vit_tiny_patch16_224", 10))
