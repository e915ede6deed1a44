"""Attention folded for inference computes the same outputs."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from regard import InputError, attention, models
from regard.attention.modules.shuffle import OrderedShuffleAttention

NETWORKS = {
    "timm resnet18": (lambda: timm.create_model("resnet18", num_classes=5), 8),
    "timm resnet26": (lambda: timm.create_model("resnet26", num_classes=5), 8),
    "torchvision resnet18": (lambda: torchvision.models.resnet18(num_classes=5), 8),
    "cifar-resnet11": (lambda: models.create("cifar-resnet11", 5), 3),
    "wrn-10-1": (lambda: models.create("wrn-10-1", 5), 3),
    "vgg": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(16, 5),
        ),
        None,
    ),
}


def randomized(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with noise on every parameter and statistic."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator, dtype=torch.float64).to(value)
            value.add_(noise * 0.5 if "running_var" in name else 0.2 * (noise - 0.5))
    return model.eval()


@pytest.mark.filterwarnings("ignore::regard.attention.PlacementWarning")
@pytest.mark.parametrize("gate", ["sigmoid", "sub-attention-2"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_shuffle_is_folded_into_the_weights(name, gate) -> None:
    build, expected = NETWORKS[name]
    torch.manual_seed(0)
    model = randomized(attention.attach(build().double(), "shuffle", groups=2, gate=gate))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    folded = attention.fold(model)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model(images), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    count = sum(isinstance(m, OrderedShuffleAttention) for m in folded.modules())
    if expected is not None:
        assert count == expected
        assert not any(isinstance(m, attention.ShuffleAttention) for m in folded.modules())
        with pytest.raises(InputError, match="folded"):
            attention.detach(folded)


@pytest.mark.parametrize("name", attention.names())
def test_norms_inside_modules_are_folded(name) -> None:
    layer = randomized(
        attention.create(name, 8, dtype=torch.float64, **{"shuffle": {"groups": 2}, "sge": {"groups": 2}}.get(name, {}))
    )
    features = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    folded = attention.fold(layer)
    with torch.no_grad():
        torch.testing.assert_close(folded(features), layer(features), rtol=1e-10, atol=1e-10)
    norms = [m for m in folded.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == (name == "srm")  # its norm does not follow a layer


def test_shuffles_after_grouped_convolutions_are_kept() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.Conv2d(8, 8, 3, groups=2))
    model = randomized(attention.attach(model.double(), "shuffle", where=["1"], groups=2))
    images = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    folded = attention.fold(model)
    assert any(isinstance(m, attention.ShuffleAttention) for m in folded.modules())
    with torch.no_grad():
        assert torch.equal(folded(images), model(images))
