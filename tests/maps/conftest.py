"""A small network for the tests of maps, and what must not happen to it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Three layers with batch norm, an in-place ReLU behind every one, dropout, 5 classes."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.layer1 = self._stage(3, 8, 1, inplace)
        self.layer2 = self._stage(8, 16, 2, inplace)
        self.layer3 = self._stage(16, 12, 2, inplace)
        self.act = nn.ReLU(inplace=inplace)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(12, 5)
        self.unused = nn.Conv2d(3, 3, 1)

    @staticmethod
    def _stage(channels: int, out: int, stride: int, inplace: bool) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=inplace)
        )

    def forward(self, images: Tensor) -> Tensor:
        features = self.layer3(self.layer2(self.layer1(images)))
        return self.fc(self.drop(self.act(features - 0.1).mean((2, 3))))


@pytest.fixture(params=[True], ids=lambda inplace: "inplace" if inplace else "plain")
def model(request: pytest.FixtureRequest) -> Small:
    """In float64 and evaluation mode, with running statistics that are not the initial ones."""
    torch.manual_seed(0)
    network = Small(request.param).double()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, 3, 16, 16, dtype=torch.float64) * 2 + 1)
    return network.eval()


@pytest.fixture
def x() -> Tensor:
    """Four images."""
    return torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    modules, parameters, buffers = _state(model)
    values = [p.detach().clone() for p, *_ in parameters], [buffer.clone() for buffer in buffers]
    yield
    modules_now, parameters_now, buffers_now = _state(model)
    assert modules_now == modules
    for now, then, value in zip(parameters_now, parameters, values[0], strict=True):
        assert all(a is b for a, b in zip(now, then, strict=True)) and torch.equal(now[0], value)
    assert all(torch.equal(now, value) for now, value in zip(buffers_now, values[1], strict=True))
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def _state(model: nn.Module):
    """Modes, hooks and parts of every module; parameters with `requires_grad` and gradients; buffers."""
    modules = [
        (name, m.training, [*m._forward_hooks], [*m._forward_pre_hooks], [*m._backward_hooks], [*m._modules.items()])
        for name, m in model.named_modules()
    ]
    return modules, [(p, p.requires_grad, p.grad) for p in model.parameters()], list(model.buffers())


@pytest.fixture
def unchanged():
    """`with unchanged(model):`, inside which the model must come to be as it was."""
    return _unchanged


@pytest.fixture
def used(model: Small) -> Small:
    """The model in mixed modes, with a hook, a gradient and a frozen part."""
    model.train()
    model.layer2.eval()
    model.fc.requires_grad_(False)
    model.layer1[0].weight.grad = torch.ones_like(model.layer1[0].weight)
    model.layer2.register_forward_hook(lambda module, args, output: None)
    return model
