"""Attention that starts as the identity: at first the network's outputs are bitwise unchanged; then it learns."""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from regard import InputError, attention, export, models, training

GROUPS = {"shuffle": {"groups": 2}, "sge": {"groups": 2}}
NETWORKS = {
    "resnet18": {},
    "resnet50d": {"layers": [1, 1, 1, 1]},
    "seresnext26d_32x4d": {"layers": [1, 1, 1, 1]},
    "resnetv2_50": {"layers": [1, 1, 1, 1]},
    "regnety_002": {},
    "densenet121": {"block_config": (2, 3, 2, 2)},
    "mobilenetv2_050": {},
    "mobilenetv3_small_050": {},
    "mobilenetv4_conv_small_050": {},
    "efficientnet_lite0": {},
    "convnext_atto": {},
    "repvgg_a0": {},
    "torchvision/resnet18": {},
    "torchvision/regnet_x_400mf": {},
    "torchvision/mobilenet_v3_small": {},
    "torchvision/efficientnet_b0": {},
    "torchvision/shufflenet_v2_x0_5": {},
    "torchvision/squeezenet1_1": {},
    "cifar-resnet20": {"block": "basic"},
    "wrn-10-1": {},
    "nin-thin": {},
}
QUICK = ("wrn-10-1", "mobilenetv3_small_050", "torchvision/resnet18")
POSITIONS = {"seresnext26d_32x4d": "block"}  # its branches have attention of their own


def images(size: int = 64, n: int = 2) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def trained(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with scales and batch norm statistics as after training."""
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in ("weight", "gamma", "layer_scale") and parameter.abs().max() < 1e-3:
            parameter.fill_(0.5)
    model.train()(images())
    return model.eval()


def bits(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.int32)


@pytest.mark.filterwarnings("ignore::regard.attention.PlacementWarning")
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_outputs_are_bitwise_unchanged(name) -> None:
    torch.manual_seed(0)
    model = trained(models.create(name, 5, **NETWORKS[name]))
    with torch.no_grad():
        expected = bits(model(images()))
        for module in attention.names():
            where = POSITIONS.get(name, "branch")
            if module == "dia":  # which needs blocks of one width
                where = [attention.insertion_points(model, where=where)[-1].name.rpartition(".")[0]]
            attention.attach(model, module, where=where, start="identity", **GROUPS.get(module, {}))
            modules = attention.attached(model)
            # Global context is the identity at first anyway.
            kind = attention.GlobalContext if module == "gc" else attention.IdentityStart
            assert modules and all(isinstance(attached, kind) for attached in modules.values())
            assert torch.equal(bits(model.eval()(images())), expected), module
            attention.detach(model)


@pytest.mark.parametrize("name", attention.names())
def test_identity_starts_receive_gradients(name) -> None:
    torch.manual_seed(0)
    model = models.create("cifar-resnet11", 5)
    options = {"gc": {"fusion": "scale"}, **GROUPS}.get(name, {})
    attention.attach(model, name, start="identity", **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inner = [parameter for start in attention.attached(model).values() for parameter in start.module.parameters()]
    for step in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images(32, 8)), torch.arange(8) % 5).backward()
        for start in attention.attached(model).values():
            assert start.strength.grad.isfinite().all() and start.strength.grad.any()
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in inner)
        assert any(parameter.grad.any() for parameter in inner) == (step == 1 and bool(inner))
        optimizer.step()
    assert all(start.strength.any() for start in attention.attached(model).values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_identity_starts_agree_with_the_formula(dtype) -> None:
    torch.manual_seed(0)
    module = attention.IdentityStart(attention.create("se", 8, dtype=dtype), dtype=dtype)
    x = torch.randn(2, 8, 4, 4).to(dtype)
    x[0, 0] = -0.0
    x[0, 1] = torch.finfo(dtype).tiny / 2
    x[1, 0] = torch.finfo(dtype).max
    with torch.no_grad():
        y = module(x)
        assert torch.equal(y, x) and torch.equal(y.signbit(), x.signbit())
        module.strength.fill_(0.25)
        gate = module.module(x) / x
        torch.testing.assert_close(module(x)[1, 1:], (x * (1 + 0.25 * (gate - 1)))[1, 1:])
        module.strength.fill_(1)
        tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 0}  # the factor is rounded once more
        torch.testing.assert_close(module(x)[1, 1:], module.module(x)[1, 1:], **tolerance)
        wide = copy.deepcopy(module).float()
        with torch.autocast("cpu", torch.bfloat16):
            assert wide(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["se", "sge"])
def test_identity_starts_can_be_traced(name) -> None:
    module, x = attention.IdentityStart(attention.create(name, 8, **GROUPS.get(name, {}))), torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        module.strength.fill_(0.3)
    torch.testing.assert_close(torch.fx.symbolic_trace(module)(x), module(x))


def test_the_channel_shuffle_is_off_by_default() -> None:
    for options, shuffle in (({}, False), ({"shuffle": True}, True)):
        model = attention.attach(models.create("wrn-10-1"), "shuffle", start="identity", groups=2, **options)
        assert all(start.module.shuffle == shuffle for start in attention.attached(model).values())
    with pytest.raises(InputError, match="unknown start of attention 'random'; known: identity, published"):
        attention.attach(models.create("wrn-10-1"), "se", start="random")


@pytest.mark.slow
def test_state_dicts_folding_and_export(tmp_path) -> None:
    def build() -> nn.Module:
        options = {"groups": 2, "shuffle": True}
        return models.create("wrn-10-1", 5, attention="shuffle", attention_options=options, attention_start="identity")

    torch.manual_seed(0)
    model, other = trained(build()), build().eval()
    with torch.no_grad():
        for start in attention.attached(model).values():
            start.strength.fill_(0.3)
    names = [f"group{group}.block0.attention.strength" for group in range(3)]
    assert [name for name in model.state_dict() if name.endswith("strength")] == names
    other.load_state_dict(model.state_dict())
    path = tmp_path / "net.onnx"
    export.to_onnx(model, path, 32)
    with torch.no_grad():
        expected = model(images(32))
        assert torch.equal(other(images(32)), expected)
        torch.testing.assert_close(attention.fold(model)(images(32)), expected, rtol=1e-4, atol=1e-5)
    (output,) = onnxruntime.InferenceSession(str(path)).run(None, {"images": images(32).numpy()})
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


def test_pretrained_networks_start_as_the_identity(monkeypatch, caplog) -> None:
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **options: torchvision.models.resnet18())

    def starts(**options) -> set[type]:
        model = models.create("resnet18", 5, attention="se", **options)
        return {type(module) for module in attention.attached(model).values()}

    assert starts(pretrained=True) == {attention.IdentityStart}
    assert "begins as the identity" in caplog.text
    caplog.clear()
    assert starts(pretrained=True, attention_start="published") == {attention.SqueezeExcitation}
    assert starts() == {attention.SqueezeExcitation} and not caplog.records
    assert starts(attention_start="identity") == {attention.IdentityStart}
    with pytest.raises(InputError, match="attention is not"):
        models.create("wrn-10-1", attention_start="identity")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, attention.SqueezeExcitation),
        ({"attention_start": "identity"}, attention.IdentityStart),
        ({"pretrained": True}, attention.IdentityStart),  # also where the weights come from a checkpoint
        ({"pretrained": True, "attention_start": "published"}, attention.SqueezeExcitation),
    ],
)
def test_recipes_choose_the_start(fields, kind) -> None:
    recipe = training.ModelRecipe("resnet18", "se", **fields)
    model = training.build_network(recipe, 5, pretrained=False)
    assert {type(one) for one in attention.attached(model).values()} == {kind}
