"""Networks in half and double precision with images in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from regard import attention, bias, data, maps, models, training, transfer
from regard.studies import gate_activations

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(4, 3, 16, 16, generator=GENERATOR)
LABELS = torch.tensor([0, 1, 2, 0])
BYTES = (IMAGES * 40 + 128).clamp(0, 255).byte()
REGIONS = torch.zeros(4, 16, 16, dtype=torch.bool)
REGIONS[:, 4:12, 4:12] = True


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return models.create("wrn-10-1", 3, attention="se").eval().to(dtype)


def objective(student: nn.Module, teacher: nn.Module, **options) -> Tensor:
    losses = transfer.Objective(student, teacher, beta=1.0, alpha=0.5, **options)(IMAGES, LABELS)
    losses.total.backward()
    return torch.stack([losses.total, losses.terms["task"], *losses.pairs["attention"]]).detach()


def evaluated(model: nn.Module) -> Tensor:
    images = data.InMemoryDataset(BYTES, LABELS, ("a", "b", "c"), "made", "test", (0.5,) * 3, (0.2,) * 3)
    score = training.evaluate(model, data.create_loader(images, 4))
    return torch.tensor([score.loss, score.accuracy])


CALLS: dict[str, Callable[[nn.Module], Tensor]] = {
    **{name: lambda model, name=name: maps.create(name, model)(IMAGES) for name in ("gradcam", "hirescam", "gradient")},
    "activation": lambda model: maps.create("activation", model, "group1")(IMAGES),
    "gates": lambda model: (
        gate_activations(model, [(IMAGES, LABELS)]).layers["group0.block0.attention"].by_class.overall
    ),
    "groups": lambda model: maps.group_activation(model, "group2", IMAGES[:2], 1, 4),
    "bias": lambda model: torch.tensor(bias.evaluate(model, [(IMAGES, LABELS, REGIONS)]).rows["auc"]),
    "student": lambda model: objective(model, network(torch.float32)),
    "teacher": lambda model: objective(network(torch.float32), model),
    "both": lambda model: objective(model, network(model.fc.weight.dtype)),
    "full activations": lambda model: objective(
        model, network(torch.float32), full_activation=1.0, image_size=IMAGES.shape[-1]
    ),
    "gradients": lambda model: objective(model, network(torch.float32), gradient=1.0, symmetry=1.0),
    "own teacher": lambda model: objective(network(torch.float32), transfer.Teacher(model, size=20, fold=True)),
    "evaluate": evaluated,
    "complexity": lambda model: torch.tensor(models.complexity(model, 16).multiply_adds),
    "folded": lambda model: attention.fold(model)(IMAGES.to(model.fc.weight.dtype)),
}


def test_costs_are_measured_in_the_models_dtype() -> None:
    memory = {dtype: models.peak_memory(network(dtype), IMAGES).inference for dtype in (torch.float32, torch.float64)}
    assert memory[torch.float64] > 1.5 * memory[torch.float32]
    assert models.latency({"double": network(torch.float64)}, IMAGES, repeats=1, warmup=0)["double"].inference.seconds


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CALLS)
def test_images_are_cast_to_the_models_dtype(name, dtype) -> None:
    expected, actual = CALLS[name](network(torch.float32)), CALLS[name](network(dtype))
    tolerance = 1e-4 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)
