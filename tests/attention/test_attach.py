"""Attention attached to whole networks, and detached."""

from __future__ import annotations

import copy
import io

import pytest
import timm
import torch
import torchvision
from timm.layers import EcaModule
from timm.models import resnet as timm_resnet
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.convnext import CNBlock

from regard import InputError, attention, models
from regard.models import cifar_resnet
from regard.stages import stages

NARROW = {"channels": (16, 32, 48, 64), "zero_init_last": False}
# timm initialises the last norm of a branch with zero, after which attention has no effect
NETWORKS = {"cifar-resnet11": {}, "wrn-10-1": {}, "resnet18": NARROW, "resnet26": NARROW}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("module", attention.names())
def test_attach_and_detach(name, module) -> None:
    torch.manual_seed(0)
    model = models.create(name, 5, **NETWORKS[name]).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before, keys = model(images), list(model.state_dict())
        options = {"groups": 4} if module in ("shuffle", "sge") else {}
        assert attention.attach(model, module, stages=(2, 3), **options) is model
        for attached in attention.attached(model).values():
            for parameter in attached.parameters():  # some modules start as the identity
                parameter.add_(0.1 * torch.randn_like(parameter))
        after = model(images)
    assert after.shape == before.shape
    assert not torch.allclose(after, before)
    modules = attention.attached(model)
    assert len(modules) == sum(len(stage) for stage in list(stages(model).values())[1:3])
    assert not any(m.training for m in modules.values())
    attention.detach(model)
    with torch.no_grad():
        assert torch.equal(model(images), before)
    assert list(model.state_dict()) == keys


def test_attention_comes_after_the_last_norm_and_before_the_addition() -> None:
    model = models.create("cifar-resnet11", 5, attention="se").eval()
    block = model.layer1[0]
    features = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        expected = torch.relu(block.attention(block.branch(features)) + block.downsample(features))
        assert torch.equal(block(features), expected)


def test_modules_have_the_dtype_of_their_block() -> None:
    model = attention.attach(models.create("wrn-10-1").double(), "se")
    assert {p.dtype for p in model.parameters()} == {torch.float64}


@pytest.mark.slow
def test_wrong_input_fails_and_leaves_the_model_unchanged() -> None:
    model = models.create("cifar-resnet11", attention="se", attention_stages=(3,))
    keys = list(model.state_dict())
    for call, message in (
        (lambda: attention.attach(model, "se"), "layer3.0.attention holds SqueezeExcitation already"),
        (lambda: attention.attach(model, "se", stages=(4,)), "stages 1 to 3, not 4"),
        (lambda: attention.attach(model, "se", stages=3), "such as [3, 4]"),
        (lambda: attention.attach(model, "se", stages=("layer1",)), "such as [3, 4]"),
        (lambda: attention.attach(model, "se", where=[1]), "or a list of layer names"),
        (lambda: attention.attach(model, "shuffle", stages=(1,), groups=64), "groups that fit"),
        (lambda: attention.attach(model, "shuffle", stages=(1, 2), groups=32, colour="red"), "'colour'"),
        (lambda: attention.attach(nn.Linear(2, 2), "se"), "has no stages"),
        (lambda: attention.attach(model, "se", where="everywhere"), "known: branch, block, stage"),
        (lambda: attention.attach(model, "se", where=["layer1.0.bn9"]), "did you mean 'layer1.0.bn"),
        (lambda: attention.attach(model, "se", where=[]), "no layers named"),
        (lambda: attention.attach(torch.compile(model), "se"), "wrapped in OptimizedModule"),
        (lambda: attention.attach(model, "dia", stages=(1,), colour="red"), "'colour'"),
        (lambda: attention.attach(model, nn.Conv2d(1, 1, 1), stages=(1,)), "by its name or its class"),
        (lambda: attention.attach(timm.create_model("seresnet18"), "se"), "holds SEModule already"),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert message in str(error.value)
        assert list(model.state_dict()) == keys


def test_detach_keeps_built_in_timm_attention() -> None:
    model = timm.create_model("seresnet18")
    keys = list(model.state_dict())
    assert list(attention.detach(model).state_dict()) == keys


def test_attaching_and_detaching_keeps_built_in_attention() -> None:
    for name in ("regnety_002", "efficientnet_b0"):
        model = timm.create_model(name)
        keys = list(model.state_dict())
        attention.attach(model, "se", stages=(1, 2))
        assert list(attention.detach(model).state_dict()) == keys


def test_custom_modules_are_attached_and_detached() -> None:
    for model in (timm.create_model("resnet18"), torchvision.models.resnet18()):
        keys = list(model.state_dict())
        attention.attach(model, EcaModule, stages=(3, 4))
        modules = attention.attached(model)
        assert [type(module) for module in modules.values()] == [EcaModule] * 4
        with pytest.raises(InputError, match="holds EcaModule already; detach"):
            attention.attach(model, "se")
        assert list(attention.attached(model)) == list(modules)
        assert list(attention.detach(model).state_dict()) == keys
        attention.attach(model, lambda channels: nn.Conv2d(channels, channels, 1), stages=(4,))
        assert len(attention.attached(model)) == 2


def test_dia_shares_one_cell_per_stage() -> None:
    model = attention.attach(torchvision.models.resnet18(), "dia")
    modules = attention.attached(model)
    cells = [modules[f"layer{stage}.{block}.bn2.attention"].cell for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert len({id(cell) for cell in cells}) == 4
    assert all(cells[i] is cells[i + 1] for i in range(0, 8, 2))
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


class CustomBlock(nn.Module):
    """A custom block, with a layer that already has an attribute `attention`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv.attention = "an existing attribute"

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + 0.5 * self.conv(self.first(x)))


class SlottedBlock(nn.Module, attention.AttentionSlot):
    """A custom block that declares the end of its branch."""

    branch_end = "conv"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.attention = None

    def forward(self, x: Tensor) -> Tensor:
        return x + self.apply_attention(self.conv(x))


def test_custom_blocks() -> None:
    def model(*blocks: nn.Module) -> nn.Module:
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
        return nn.Sequential(nn.Conv2d(3, 4, 3), *blocks, *head).eval()

    for where in ("branch", "block"):
        with pytest.raises(InputError, match=r"1 is a CustomBlock, .* branch end is unknown .* name layers in where="):
            attention.attach(model(CustomBlock(4)), "se", where=where)
    named = attention.attach(model(CustomBlock(4), CustomBlock(4)), "se", where=["*.conv"])
    assert list(attention.attached(named)) == ["1.conv.attention2", "2.conv.attention2"]
    x, block = torch.randn(2, 4, 6, 6), named[1]
    plain = nn.functional.conv2d(block.first(x), block.conv.weight, block.conv.bias, padding=1)
    torch.testing.assert_close(block(x), torch.relu(x + 0.5 * block.conv.attention2(plain)))

    slotted = attention.attach(model(SlottedBlock(4), nn.Sequential(SlottedBlock(4))), "se")
    assert list(attention.attached(slotted)) == ["1.attention", "2.0.attention"]
    assert all(point.residual and point.channels == 4 for point in attention.insertion_points(slotted))


def small(kind: str) -> nn.Module:
    """Networks that call attention in every way: slots, wrapped layers, (N, H, W, C) outputs, after a stage."""
    torch.manual_seed(0)
    blocks: dict[str, list[nn.Module]] = {
        "slots": [cifar_resnet.BasicBlock(4, 8, 2), timm_resnet.BasicBlock(8, 8)],
        "outputs": [torchvision.models.resnet.BasicBlock(4, 4)],
        "channels last": [CNBlock(4, 1.0, 0.5)],
        "stages": [],
    }
    if kind == "stages":
        return attention.attach(torchvision.models.DenseNet(4, (1,), 4, num_classes=5), "se", where="stage")
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(5))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *blocks[kind], *head)
    model(torch.zeros(2, 3, 8, 8))
    return attention.attach(model, "se")


KINDS = ["slots", "outputs", "channels last", "stages"]


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_saved_models_keep_attention(kind) -> None:
    model, images = small(kind).eval(), torch.randn(2, 3, 32, 32)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        with torch.no_grad():
            assert torch.equal(other(images), model(images))
        assert list(attention.attached(other)) == list(attention.attached(model))
        names = [name for name in model.state_dict() if not name.startswith(tuple(attention.attached(model)))]
        assert list(attention.detach(other).state_dict()) == names
    assert attention.attached(model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_models_compile_and_export_as_one_graph(kind) -> None:
    model = small(kind).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (torch.randn(4, 3, 32, 32),), dynamic_shapes=({0: batch},)).module()
    for n in (5, 6):  # not 3, which equals the number of channels
        images = torch.randn(n, 3, 32, 32)
        expected = model(images)
        torch.testing.assert_close(program(images), expected)
        output = compiled(images)
        torch.testing.assert_close(output, expected)
        expected_gradients = torch.autograd.grad(expected.sum(), list(model.parameters()))
        gradients = torch.autograd.grad(output.sum(), list(model.parameters()))
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_models_compile_with_inductor() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    with pytest.warns(attention.PlacementWarning):
        model = attention.attach(layers, "se").eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(images), model(images))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_and_channels_last(kind) -> None:
    model, images = small(kind).eval(), torch.randn(2, 3, 32, 32)
    expected = model(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(images)
    mixed.float().sum().backward()
    assert all(p.grad.isfinite().all() for m in attention.attached(model).values() for p in m.parameters())
    torch.testing.assert_close(mixed.float(), expected, rtol=0.1, atol=0.1)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_data_parallel(kind, tmp_path) -> None:
    model, images = small(kind), torch.randn(4, 3, 32, 32)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        DistributedDataParallel(model)(images).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(p.grad is not None for m in attention.attached(model).values() for p in m.parameters())
