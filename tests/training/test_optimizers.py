"""Optimizers: by name, with options, and with their state when a run resumes."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy

from regard import attention, models
from regard.errors import InputError
from regard.training import OptimizerRecipe
from regard.training.optimizers import check_optimizer, make_optimizer, optimizers, reset_momentum

KINDS = ["sgd", "adamw", "lamb", "lion"]
MUON = [name for name in optimizers() if name == "muon"]  # not in every version of timm


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, lr: float = 0.01) -> None:
    draws = torch.Generator().manual_seed(number)
    images, labels = torch.randn(6, 3, 6, 6, generator=draws), torch.randint(5, (6,), generator=draws)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    cross_entropy(model(images), labels).backward()
    optimizer.step()


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def error_of(recipe: OptimizerRecipe) -> str:
    with pytest.raises(InputError) as caught:
        check_optimizer(recipe)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_decay_weights_excludes_norms_biases_and_gates() -> None:
    model = models.create(
        "cifar-resnet11", attention="shuffle", attention_options={"groups": 4}, gate=attention.SubAttention(1)
    )
    weights = OptimizerRecipe(decay="weights")
    decaying = make_optimizer(model, weights).param_groups[-1]["params"]
    expected = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert {id(p) for p in decaying} == {id(p) for p in expected}
    groups = make_optimizer(model, weights).param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert groups[0]["weight_decay"] == 0
    (group,) = make_optimizer(model, OptimizerRecipe()).param_groups
    assert group["weight_decay"] == 5e-4


@pytest.mark.parametrize("name", [*KINDS, *MUON])
def test_every_optimizer_gets_the_same_parameter_groups(name) -> None:
    model, extra = network(), nn.Parameter(torch.ones(3, 3, 1, 1))
    recipe = OptimizerRecipe(name=name, weight_decay=0.02, decay="weights")
    undecayed, decaying = make_optimizer(model, recipe, [extra]).param_groups
    assert [id(p) for p in undecayed["params"]] == [id(p) for _, p in model.named_parameters() if p.ndim == 1]
    assert [id(p) for p in decaying["params"]] == [id(model[0].weight), id(model[4].weight), id(extra)]
    assert (undecayed["weight_decay"], decaying["weight_decay"]) == (0, 0.02)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (OptimizerRecipe(nesterov=True), {"kind": torch.optim.SGD, "momentum": 0.9, "nesterov": True}),
        (OptimizerRecipe(options={"dampening": 0.1}), {"kind": torch.optim.SGD, "momentum": 0.9, "dampening": 0.1}),
        (
            OptimizerRecipe(name="adamw", options={"betas": [0.8, 0.9]}),
            {"kind": torch.optim.AdamW, "betas": (0.8, 0.9)},
        ),
    ],
)
def test_sgd_and_adamw_match_torch(recipe, expected) -> None:
    recipe.weight_decay = 0.1
    model, reference = network(), network()
    optimizer = make_optimizer(model, recipe)
    kind = expected.pop("kind")
    reference_optimizer = kind(reference.parameters(), lr=0.1, weight_decay=0.1, **expected)
    assert type(optimizer) is kind
    for number in range(4):
        step(model, optimizer, number)
        step(reference, reference_optimizer, number)
    assert equal(model, reference)


@pytest.mark.parametrize("name", [*KINDS, *MUON, "adafactor"])
def test_saved_state_resumes_bit_for_bit(name) -> None:
    recipe = OptimizerRecipe(name=name, weight_decay=0.02, decay="weights")
    whole, interrupted, resumed = network(), network(), network()
    optimizer, first = make_optimizer(whole, recipe), make_optimizer(interrupted, recipe)
    for number in range(6):
        step(whole, optimizer, number, lr=0.02 / (number + 1))
    for number in range(3):
        step(interrupted, first, number, lr=0.02 / (number + 1))
    file = io.BytesIO()
    torch.save({"model": interrupted.state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed.load_state_dict(saved["model"])
    second = make_optimizer(resumed, recipe)
    assert not equal(resumed, whole)
    second.load_state_dict(saved["optimizer"])
    for number in range(3, 6):
        step(resumed, second, number, lr=0.02 / (number + 1))
    assert equal(resumed, whole)


@pytest.mark.parametrize("name", [*KINDS, *MUON])
def test_steps_use_the_learning_rate_of_the_group(name) -> None:
    model, before = network(), network()
    optimizer = make_optimizer(model, OptimizerRecipe(name=name, lr=0.5, weight_decay=0.1))
    step(model, optimizer, 0, lr=0.0)
    assert all(map(torch.equal, model.parameters(), before.parameters()))
    step(model, optimizer, 1, lr=1e-3)
    assert not any(map(torch.equal, model.parameters(), before.parameters()))


def test_reset_momentum_clears_the_state() -> None:
    model, fresh = network(), network()
    recipe = OptimizerRecipe(weight_decay=0.1)
    optimizer = make_optimizer(model, recipe)
    reset_momentum(optimizer)  # no momentum before the first step
    for number in range(3):
        step(model, optimizer, number)
    fresh.load_state_dict(model.state_dict())
    reset_momentum(optimizer)
    step(model, optimizer, 3)
    step(fresh, make_optimizer(fresh, recipe), 3)
    assert equal(model, fresh)
    without_momentum = make_optimizer(model, OptimizerRecipe(momentum=0))
    step(model, without_momentum, 4)
    reset_momentum(without_momentum)


@pytest.mark.parametrize("name", sorted(optimizers()))
def test_every_optimizer_name_can_be_created(name) -> None:
    check_optimizer(OptimizerRecipe(name=name, lr=1e-3))


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (OptimizerRecipe(name="lam"), "unknown optimizer 'lam' (did you mean 'lamb'?)"),
        (OptimizerRecipe(name="AdamW"), "unknown optimizer 'AdamW'"),
        (OptimizerRecipe(name="lookahead_adam"), "unknown optimizer"),
        (OptimizerRecipe(name="fusedlamb"), "unknown optimizer"),  # needs apex
        (OptimizerRecipe(name="adahessian"), "unknown optimizer"),  # needs second derivatives
        (OptimizerRecipe(name="adamw", options={"beta": [0.9, 0.99]}), "adamw 'beta' (did you mean 'betas'?)"),
        (OptimizerRecipe(options={"betas": [0.9, 0.99]}), "unknown option of optimizer sgd 'betas'"),
        (OptimizerRecipe(options={"maximize": True}), "unknown option of optimizer sgd 'maximize'"),
        (OptimizerRecipe(options={"lr": 1}), "give it as optimizer.lr"),
        (OptimizerRecipe(options={"nesterov": True}), "give it as optimizer.nesterov"),
        (OptimizerRecipe(name="lars", options={"momentum": 0.95}), "give it as optimizer.momentum"),
        (OptimizerRecipe(name="adamw", momentum=0.5), "optimizer.momentum is 0.5, but adamw has no momentum"),
        (
            OptimizerRecipe(name="lamb", nesterov=True),
            "optimizer.nesterov is for sgd; optimizer.name is lamb: leave it out",
        ),
        (OptimizerRecipe(name="lars", nesterov=True), "or give it in optimizer.options"),
        (OptimizerRecipe(name="adamw", options={"betas": [0.9, 1.5]}), "adamw does not take optimizer.options"),
        (OptimizerRecipe(options={"dampening": "much"}), "sgd does not take optimizer.options {'dampening': 'much'}"),
        (OptimizerRecipe(nesterov=True, options={"dampening": 0.5}), "zero dampening"),
        (OptimizerRecipe(name="lamb", options={"max_grad_norm": "one"}), "lamb does not take optimizer.options"),
    ],
)
def test_invalid_recipes_are_named_without_a_network(recipe, expected) -> None:
    assert expected in error_of(recipe)
    with pytest.raises(InputError):
        make_optimizer(network(), recipe)


def test_check_optimizer_draws_no_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    check_optimizer(OptimizerRecipe(name="nadamw", lr=1e-3, options={"betas": [0.9, 0.99]}))
    assert torch.rand(1) == expected


@pytest.mark.parametrize(
    ("recipe", "fused"),
    [
        (OptimizerRecipe(), True),
        (OptimizerRecipe(name="adamw"), True),
        (OptimizerRecipe(options={"foreach": True}), None),
        (OptimizerRecipe(name="adamw", options={"fused": False}), False),
    ],
)
def test_steps_on_cuda_are_fused(recipe, fused) -> None:
    check_optimizer(recipe)
    with FakeTensorMode():
        on_cuda = make_optimizer(nn.Linear(3, 2, device="cuda"), recipe)
        on_cpu = make_optimizer(nn.Linear(3, 2), recipe)
    assert on_cuda.param_groups[0]["fused"] is fused
    assert on_cpu.param_groups[0]["fused"] is recipe.options.get("fused")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_steps_match_the_cpu(name) -> None:
    recipe = OptimizerRecipe(name=name, weight_decay=0.01)
    on_cpu, on_gpu = network().double(), network().double().cuda()
    cpu_optimizer, gpu_optimizer = make_optimizer(on_cpu, recipe), make_optimizer(on_gpu, recipe)
    for number in range(4):
        draws = torch.Generator().manual_seed(number)
        for one, two in zip(on_cpu.parameters(), on_gpu.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=draws, dtype=torch.float64)
            two.grad = one.grad.cuda()
        cpu_optimizer.step()
        gpu_optimizer.step()
    for one, two in zip(on_cpu.parameters(), on_gpu.parameters(), strict=True):
        torch.testing.assert_close(one, two.cpu())
