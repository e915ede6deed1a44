"""The stages of networks."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from regard import InputError, attention, maps, models
from regard.stages import is_activation, is_norm, stage_blocks, stages

# Names of the stages, and the number of blocks in each.
TIMM = {
    "resnet18": ({f"layer{i}" for i in range(1, 5)}, [2, 2, 2, 2]),
    "resnetv2_50": ({f"stages.{i}" for i in range(4)}, [3, 4, 6, 3]),
    "regnetx_002": ({f"s{i}" for i in range(1, 5)}, [1, 1, 4, 7]),
    "densenet121": ({f"features.denseblock{i}" for i in range(1, 5)}, [6, 12, 24, 16]),
    "mobilenetv2_050": ({f"blocks.{i}" for i in range(7)}, [1, 2, 3, 4, 3, 3, 1]),
    "efficientnet_b0": ({f"blocks.{i}" for i in range(7)}, [1, 2, 2, 3, 3, 4, 1]),
    "convnext_atto": ({f"stages.{i}" for i in range(4)}, [2, 2, 6, 2]),
}
TORCHVISION = {
    "resnet18": ({f"layer{i}" for i in range(1, 5)}, [2, 2, 2, 2]),
    "regnet_x_400mf": ({f"trunk_output.block{i}" for i in range(1, 5)}, [1, 2, 7, 12]),
    "densenet121": ({f"features.denseblock{i}" for i in range(1, 5)}, [6, 12, 24, 16]),
    "mobilenet_v2": ({f"features.{i}" for i in (1, 3, 6, 13, 17)}, [1, 2, 3, 7, 4]),
    "mobilenet_v3_small": ({f"features.{i}" for i in (1, 3, 8, 11)}, [1, 2, 5, 3]),
    "efficientnet_b0": ({f"features.{i}" for i in (1, 2, 3, 5, 7)}, [1, 2, 2, 6, 5]),
    "convnext_tiny": ({f"features.{i}" for i in (1, 3, 5, 7)}, [3, 3, 9, 3]),
    "shufflenet_v2_x0_5": ({f"stage{i}" for i in (2, 3, 4)}, [4, 8, 4]),
}


def build(source: str, name: str) -> nn.Module:
    if source == "timm":
        return timm.create_model(name, num_classes=5).eval()
    return torchvision.models.get_model(name, num_classes=5).eval()


@pytest.mark.parametrize(
    ("source", "name"), [*(("timm", name) for name in TIMM), *(("torchvision", name) for name in TORCHVISION)]
)
def test_stages_and_blocks_of_known_networks(source, name) -> None:
    model = build(source, name)
    names, blocks = (TIMM if source == "timm" else TORCHVISION)[name]
    result = stages(model)
    assert set(result) == names
    assert all(model.get_submodule(stage) is module for stage, module in result.items())
    assert [len(block_list) for block_list in stage_blocks(model).values()] == blocks
    for block_list in stage_blocks(model).values():
        assert all(model.get_submodule(block_name) is block for block_name, block in block_list)
    with torch.no_grad(), maps.Taps(model) as taps:
        model(torch.randn(1, 3, 64, 64))
        sizes = [features.shape[-1] for features in taps.features.values()]
    assert sizes == sorted(sizes, reverse=True)
    if source == "torchvision":  # timm gives MobileNet and EfficientNet several stages of one size
        assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("name", ["cifar-resnet11", "wrn-10-1", "resnet18", "convnext_atto", "mobilenetv2_050"])
def test_attention_leaves_stages_and_blocks_unchanged(name) -> None:
    model = models.create(name, 5)
    before = {stage: [block_name for block_name, _ in blocks] for stage, blocks in stage_blocks(model).items()}
    attention.attach(model, "se")
    attention.attach(model, "bam", where="stage")
    assert {stage: [block_name for block_name, _ in blocks] for stage, blocks in stage_blocks(model).items()} == before


def test_without_blocks_stages_end_at_changes_of_resolution() -> None:
    def layers(channels: int, out: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(channels, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU()]

    model = nn.Sequential(
        *(*layers(3, 4), nn.MaxPool2d(2)),
        *(*layers(4, 8), *layers(8, 8), nn.Dropout2d()),
        *layers(8, 8, stride=2),
        *(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )
    assert list(stages(model)) == ["2", "9", "13"]
    assert [len(blocks) for blocks in stage_blocks(model).values()] == [0, 0, 0]
    nested = nn.Sequential(model[:14], model[14:16], nn.Flatten(), nn.Linear(8, 5))
    assert list(stages(nested)) == ["0.2", "0.9", "0.13"]


def test_networks_without_stages_are_refused() -> None:
    for model in (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.Sequential()):
        with pytest.raises(InputError, match="has no stages that regard recognises"):
            stages(model)


def test_activations_and_norms_are_recognised() -> None:
    for layer in (nn.ReLU(), nn.SiLU(), nn.PReLU(), nn.Softmax(1), timm.layers.Swish()):
        assert is_activation(layer) and not is_norm(layer)
    for layer in (
        nn.BatchNorm2d(2),
        nn.GroupNorm(1, 2),
        nn.LayerNorm(2),
        timm.layers.LayerNorm2d(2),
        FrozenBatchNorm2d(2),
    ):
        assert is_norm(layer) and not is_activation(layer)
    for layer in (
        nn.MultiheadAttention(4, 2),
        nn.LocalResponseNorm(2),
        nn.Conv2d(1, 1, 1),
        timm.layers.ConvNormAct(1, 1),
    ):
        assert not is_activation(layer) and not is_norm(layer)


def test_stages_come_from_the_feature_info_of_timm() -> None:
    with torch.device("meta"):
        model = timm.create_model("dla34", num_classes=5)
    assert list(stages(model)) == [entry["module"] for entry in model.feature_info]
    attention.attach(model, "se", stages=(3,))
    assert "level2.tree1.bn2.attention" in attention.attached(model)
