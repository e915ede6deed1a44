"""The pairing of layers of student and teacher."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from regard import InputError, models
from regard.transfer.pairing import check_extent, feature_shapes, find_pairs


def pairs(student: str, teacher: str, size: int = 64, layers=None) -> list[tuple[str, str]]:
    networks = [
        models.create(name, 10) if name.startswith("wrn") else timm.create_model(name) for name in (student, teacher)
    ]
    return [tuple(pair) for pair in find_pairs(*networks, layers, (size, size))]


def test_equal_numbers_of_stages_are_paired_in_order() -> None:
    assert pairs("wrn-10-1", "wrn-16-2") == [(f"group{i}", f"group{i}") for i in range(3)]
    assert pairs("resnet18", "resnet50") == [(f"layer{i}", f"layer{i}") for i in range(1, 5)]


@pytest.mark.slow
def test_stages_are_matched_by_resolution_then_depth() -> None:
    """MobileNetV3 has several stages per stride; each stage of ResNet is paired with the last one at its stride."""
    model = timm.create_model("mobilenetv3_small_100")
    shapes, _ = feature_shapes(model, [f"blocks.{i}" for i in range(6)], (64, 64), "student")
    actual = pairs("mobilenetv3_small_100", "resnet50")
    heights = [shapes[name][1] for name, _ in actual]
    assert [teacher for _, teacher in actual] == ["layer1", "layer2", "layer3", "layer4"]
    assert heights == [16, 8, 4, 2]
    # Of several stages at one resolution, the deepest fits ResNet's last layers.
    assert actual[-1][0] == "blocks.5"
    assert [(b, a) for a, b in actual] == pairs("resnet50", "mobilenetv3_small_100")


def test_stages_of_one_resolution_are_matched_by_depth() -> None:
    actual = pairs("resnet18", "vit_tiny_patch16_224", 224)
    assert actual == [("layer1", "blocks.2"), ("layer2", "blocks.5"), ("layer3", "blocks.8"), ("layer4", "blocks.11")]


def test_layers_are_given_by_name_number_or_pair() -> None:
    layers = ["group1", ("group2", "group0"), 0, (-1, -2), ["group0.block0", "group0"]]
    assert pairs("wrn-10-1", "wrn-16-2", layers=layers) == [
        ("group1", "group1"),
        ("group2", "group0"),
        ("group0", "group0"),
        ("group2", "group1"),
        ("group0.block0", "group0"),
    ]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["group7"], "the student has no such layer: unknown layer 'group7'"),
        ([("group1", "layer9")], "its stages: group0, group1, group2"),
        ([("group1", "layer9")], "the teacher has no such layer"),
        ([3], "the student has no stage 3; it has 3, from 0: group0, group1, group2"),
        ([(0, -4)], "the teacher has no stage -4"),
        ([("group0", "group1", "group2")], "a pair (student's, teacher's)"),
        ([], "give a list"),
        ("group0", "give a list"),
    ],
)
def test_unknown_layers_fail(layers, message) -> None:
    with pytest.raises(InputError) as error:
        pairs("wrn-10-1", "wrn-16-2", layers=layers)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_incomparable_networks_fail() -> None:
    network = models.create("wrn-10-1")
    with pytest.raises(InputError, match=r"the teacher: Linear has no stages .* give layers as pairs"):
        find_pairs(network, nn.Linear(3, 3), None, (32, 32))
    vit = timm.create_model("vit_tiny_patch16_224")
    with pytest.raises(InputError, match=r"does not run on an image of 32 x 32 pixels .*teacher_size"):
        find_pairs(network, vit, None, (32, 32))
    shapes, logits = feature_shapes(network, ["group2", "fc"][:1], (32, 32), "student")
    assert shapes == {"group2": (64, 8, 8)} and logits.shape == (1, 10)
    with pytest.raises(InputError, match="gives a tensor of shape"):
        feature_shapes(network, ["fc"], (32, 32), "student")
    shapes, _ = feature_shapes(network, ["group2"], (4, 4), "student")
    with pytest.raises(InputError, match="no spatial extent"):
        check_extent(shapes, "student")


def test_feature_shapes_leaves_the_network_unchanged() -> None:
    network = models.create("wrn-10-1")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    feature_shapes(network, ["group0"], (32, 32), "student")
    assert network.training and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
