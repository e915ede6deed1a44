"""A small network for the tests of maps, and a check that it stays unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from support.small import Small, model, x
from torch import nn

__all__ = ["model", "x"]


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
    """Modes, hooks and children of every module; parameters with `requires_grad` and gradients; buffers."""
    modules = [
        (name, m.training, [*m._forward_hooks], [*m._forward_pre_hooks], [*m._backward_hooks], [*m._modules.items()])
        for name, m in model.named_modules()
    ]
    return modules, [(p, p.requires_grad, p.grad) for p in model.parameters()], list(model.buffers())


@pytest.fixture
def unchanged():
    """`with unchanged(model):` checks that the block leaves the model unchanged."""
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
