"""Which layers are paired."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from regard import InputError, models
from regard.transfer.pairing import check_extent, feature_shapes, find_pairs


def pairs(student: str, teacher: str, size: int = 64, layers=None) -> list[tuple[str, str]]:
    built = [
        models.create(name, 10) if name.startswith("wrn") else timm.create_model(name) for name in (student, teacher)
    ]
    return [tuple(pair) for pair in find_pairs(*built, layers, (size, size))]


def test_as_many_stages_pair_in_order() -> None:
    assert pairs("wrn-10-1", "wrn-16-2") == [(f"group{i}", f"group{i}") for i in range(3)]
    assert pairs("resnet18", "resnet50") == [(f"layer{i}", f"layer{i}") for i in range(1, 5)]


@pytest.mark.slow
def test_stages_are_matched_by_resolution_then_depth() -> None:
    """MobileNetV3 has 7 stages at strides 2, 4, 8, 16, 16, 32, 32 or so; each of ResNet's gets the last at its own."""
    model = timm.create_model("mobilenetv3_small_100")
    shapes, _ = feature_shapes(model, [f"blocks.{i}" for i in range(6)], (64, 64), "student")
    found = pairs("mobilenetv3_small_100", "resnet50")
    heights = [shapes[name][1] for name, _ in found]
    assert [teacher for _, teacher in found] == ["layer1", "layer2", "layer3", "layer4"]
    assert heights == [16, 8, 4, 2]
    # Where several stages have the resolution, the deepest is the one that fits ResNet's last layers.
    assert found[-1][0] == "blocks.5"
    assert [(b, a) for a, b in found] == pairs("resnet50", "mobilenetv3_small_100")


def test_stages_of_one_resolution_are_matched_by_depth() -> None:
    found = pairs("resnet18", "vit_tiny_patch16_224", 224)
    assert found == [("layer1", "blocks.2"), ("layer2", "blocks.5"), ("layer3", "blocks.8"), ("layer4", "blocks.11")]


def test_layers_by_name_number_and_in_pairs() -> None:
    asked = ["group1", ("group2", "group0"), 0, (-1, -2), ["group0.block0", "group0"]]
    assert pairs("wrn-10-1", "wrn-16-2", layers=asked) == [
        ("group1", "group1"),
        ("group2", "group0"),
        ("group0", "group0"),
        ("group2", "group1"),
        ("group0.block0", "group0"),
    ]


@pytest.mark.parametrize(
    ("layers", "words"),
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
def test_layers_that_are_not_there(layers, words) -> None:
    with pytest.raises(InputError) as caught:
        pairs("wrn-10-1", "wrn-16-2", layers=layers)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_networks_that_cannot_be_compared() -> None:
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


def test_looking_changes_nothing() -> None:
    network = models.create("wrn-10-1")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    feature_shapes(network, ["group0"], (32, 32), "student")
    assert network.training and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
