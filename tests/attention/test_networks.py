"""Attention in timm, torchvision and plain networks: its positions, and that the networks work."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as torchvision

from regard import InputError, attention, models, transfer

FOUR_BLOCKS = [1, 1, 1, 1]


def vgg(source: str, name: str) -> Callable[[], nn.Module]:
    """A VGG with a small head instead of one with a hundred million weights."""

    def build() -> nn.Module:
        with torch.device("meta"):
            if source == "timm":
                model = timm.create_model(name)
                model.pre_logits = nn.Identity()
                model.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 5))
            else:
                model = torchvision.get_model(name, init_weights=False)
                model.classifier = nn.Linear(512 * 49, 5)
        for module in model.to_empty(device="cpu").modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        return model

    return build


def plain() -> nn.Module:
    act = nn.ReLU()  # called twice
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), act, nn.Conv2d(8, 8, 3), act, nn.MaxPool2d(2)),
        *(nn.Sequential(nn.Conv2d(8, 12, 3), nn.ReLU(inplace=True)), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(12, 5),
    )


class Case(NamedTuple):
    build: Callable[[], nn.Module]
    branches: int
    blocks: int
    stages: int
    residual: bool = True


def timm_case(name: str, *counts: int, residual: bool = True, **options) -> Case:
    return Case(lambda: timm.create_model(name, num_classes=5, **options), *counts, residual=residual)


def torchvision_case(name: str, *counts: int, residual: bool = True) -> Case:
    return Case(lambda: torchvision.get_model(name, num_classes=5), *counts, residual=residual)


def torchvision_resnet_case(**options: int) -> Case:
    block = torchvision.resnet.Bottleneck
    return Case(lambda: torchvision.ResNet(block, FOUR_BLOCKS, num_classes=5, **options), 4, 4, 4)


# The numbers of insertion points at branches, blocks and stages, counted in the papers' tables. Large networks have
# fewer blocks or a smaller head here.
NETWORKS = {
    "timm resnet18": timm_case("resnet18", 8, 8, 4),
    "timm resnext50_32x4d": timm_case("resnext50_32x4d", 4, 4, 4, layers=FOUR_BLOCKS),
    "timm wide_resnet50_2": timm_case("wide_resnet50_2", 4, 4, 4, layers=FOUR_BLOCKS),
    "timm resnet26d": timm_case("resnet26d", 8, 8, 4),
    "timm resnetv2_50": timm_case("resnetv2_50", 4, 4, 4, layers=FOUR_BLOCKS),
    "timm regnetx_002": timm_case("regnetx_002", 13, 13, 4),
    "timm regnety_002": timm_case("regnety_002", 13, 13, 4),
    "timm densenet121": timm_case("densenet121", 9, 9, 4, residual=False, block_config=(2, 3, 2, 2)),
    "timm vgg11": Case(vgg("timm", "vgg11"), 8, 8, 5, residual=False),
    "timm vgg11_bn": Case(vgg("timm", "vgg11_bn"), 8, 8, 5, residual=False),
    "timm mobilenetv2_050": timm_case("mobilenetv2_050", 17, 17, 7),
    "timm mobilenetv3_small_050": timm_case("mobilenetv3_small_050", 11, 11, 5),
    "timm efficientnet_b0": timm_case("efficientnet_b0", 16, 16, 7),
    "timm convnext_atto": timm_case("convnext_atto", 12, 12, 4),
    "timm convnext_atto, channels last": timm_case("convnext_atto", 12, 12, 4, conv_mlp=False, drop_path_rate=0.1),
    "timm convnextv2_atto": timm_case("convnextv2_atto", 12, 12, 4),
    "timm mobilenetv4_conv_small_050": timm_case("mobilenetv4_conv_small_050", 12, 12, 2),
    "timm repvgg_a0": timm_case("repvgg_a0", 21, 21, 4, residual=False),
    "torchvision resnet18": torchvision_case("resnet18", 8, 8, 4),
    "torchvision resnext50_32x4d": torchvision_resnet_case(groups=32, width_per_group=4),
    "torchvision wide_resnet50_2": torchvision_resnet_case(width_per_group=128),
    "torchvision regnet_x_400mf": torchvision_case("regnet_x_400mf", 22, 22, 4),
    "torchvision densenet121": Case(
        lambda: torchvision.DenseNet(32, (2, 3, 2, 2), 64, num_classes=5), 9, 9, 4, residual=False
    ),
    "torchvision vgg11": Case(vgg("torchvision", "vgg11"), 8, 8, 5, residual=False),
    "torchvision vgg11_bn": Case(vgg("torchvision", "vgg11_bn"), 8, 8, 5, residual=False),
    "torchvision mobilenet_v2": torchvision_case("mobilenet_v2", 17, 17, 5),
    "torchvision mobilenet_v3_small": torchvision_case("mobilenet_v3_small", 11, 11, 4),
    "torchvision efficientnet_b0": torchvision_case("efficientnet_b0", 16, 16, 5),
    "torchvision convnext_tiny": torchvision_case("convnext_tiny", 18, 18, 4),
    "torchvision shufflenet_v2_x0_5": torchvision_case("shufflenet_v2_x0_5", 16, 16, 3, residual=False),
    "torchvision squeezenet1_1": torchvision_case("squeezenet1_1", 8, 8, 3, residual=False),
    "plain Sequential": Case(plain, 3, 3, 2, residual=False),
}


class Network(NamedTuple):
    case: Case
    model: nn.Module
    images: Tensor


LARGE = ("wide_resnet50_2", "vgg11", "vgg11_bn", "convnext_tiny", "repvgg_a0", "resnet26d")


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow) if n.split()[1] in LARGE else n for n in NETWORKS],
)
def network(request) -> Network:
    """A network in evaluation mode without attention; every test detaches what it attaches."""
    torch.manual_seed(0)
    case = NETWORKS[request.param]
    model = case.build()
    size = 16 if request.param == "plain Sequential" else 64
    images = torch.randn(2, 3, size, size)
    make_responsive(model, images)
    return Network(case, model, images)


@torch.no_grad()
def make_responsive(model: nn.Module, images: Tensor | None = None) -> None:
    """Puts the model into evaluation mode, in a state in which changes inside it affect its output.

    Scales with initial values near zero become 1, and batch norms get the statistics of the images.
    """
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in ("weight", "gamma", "layer_scale") and parameter.abs().max() < 1e-3:
            parameter.fill_(1)
    if images is not None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        model.train()(images)
    model.eval()


@contextmanager
def with_attention(network: Network, name: str = "se", **options) -> Iterator[nn.Module]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attention.PlacementWarning)
        attention.attach(network.model, name, **options)
    try:
        yield network.model
    finally:
        attention.detach(network.model.eval())


@pytest.mark.parametrize("where", ["branch", "block", "stage"])
def test_attention_works_and_detaches_without_trace(network, where) -> None:
    model, images = network.model, network.images
    keys = list(model.state_dict())
    with torch.no_grad():
        before = model(images)
    with with_attention(network, where=where):
        modules = attention.attached(model)
        assert len(modules) == getattr(network.case, {"branch": "branches"}.get(where, f"{where}s"))
        assert all(model.get_submodule(name) is module for name, module in modules.items())
        with torch.no_grad():
            after = model(images)
        assert after.shape == before.shape
        assert not torch.allclose(after, before)
        if where == "branch":
            model.train()(images).square().sum().backward()
            for name, module in modules.items():
                for parameter in module.parameters():
                    assert parameter.grad is not None and parameter.grad.isfinite().all(), name
                assert any(parameter.grad.any() for parameter in module.parameters()), name
    assert list(model.state_dict()) == keys
    assert not any(isinstance(module, attention.WithAttention) for module in model.modules())


@pytest.mark.slow
@torch.no_grad()
def test_plain_weights_load_and_copies_are_independent(network) -> None:
    model, images = network.model, network.images
    plain_state, plain_output = copy.deepcopy(model.state_dict()), model(images)
    with with_attention(network):
        prefixes = tuple(f"{name}." for name in attention.attached(model))
        missing, unexpected = model.load_state_dict(plain_state, strict=False)
        assert not unexpected
        assert missing and all(name.startswith(prefixes) for name in missing)
        assert {name for name in model.state_dict() if not name.startswith(prefixes)} == set(plain_state)

        copied, output = copy.deepcopy(model), model(images)
        assert torch.equal(copied(images), output)
        attention.detach(copied)
        assert torch.equal(copied(images), plain_output)
        assert torch.equal(model(images), output)

        other = attach_again(copied)
        assert not torch.allclose(other(images), output)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(images), output)
    assert torch.equal(model(images), plain_output)


def attach_again(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attention.PlacementWarning)
        return attention.attach(model, "se")


def test_insertion_points_describe_the_network(network) -> None:
    """Channels, residual additions, and the warning for networks without residual branches."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        attention.attach(network.model, "se")
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in attention.attached(network.model).items():
        module.register_forward_hook(lambda _, args, __, name=name: shapes.update({name: args[0].shape}))
    with torch.no_grad():
        network.model(network.images)
    insertion_points = attention.insertion_points(network.model)
    attention.detach(network.model)
    assert [point.name for point in insertion_points] == list(shapes)  # in order of execution
    assert [point.channels for point in insertion_points] == [size[1] for size in shapes.values()]
    assert any(point.residual for point in insertion_points) == network.case.residual
    messages = [str(warning.message) for warning in warned if warning.category is attention.PlacementWarning]
    if network.case.residual:
        assert not messages
    else:
        assert len(messages) == 1
        assert f"has no residual branches; attention was attached behind {network.case.branches} layers" in messages[0]
        assert insertion_points[0].name.rpartition(".")[0] in messages[0]


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_attention_position_in_a_torchvision_bottleneck() -> None:
    model = attention.attach(torchvision.resnet50(num_classes=5).eval(), "se", stages=(2,))
    block, x = model.layer2[0], features(2, 256, 8, 8)
    y = F.relu(block.bn1(block.conv1(x)))
    y = F.relu(block.bn2(block.conv2(y)))
    y = F.batch_norm(block.conv3(y), block.bn3.running_mean, block.bn3.running_var, block.bn3.weight, block.bn3.bias)
    y = model.get_submodule("layer2.0.bn3.attention")(y) + block.downsample(x)
    torch.testing.assert_close(block(x), F.relu(y))
    assert list(attention.attached(model)) == [f"layer2.{i}.bn3.attention" for i in range(4)]


@torch.no_grad()
def test_attention_position_in_mobilenet() -> None:
    model = attention.attach(torchvision.mobilenet_v2(num_classes=5).eval(), "se")
    narrow, wide, project, norm = model.features[3].conv
    x = features(2, 24, 8, 8)
    y = project(wide(narrow(x)))
    y = norm.attention(F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias))
    torch.testing.assert_close(model.features[3](x), x + y)


@torch.no_grad()
def test_attention_position_in_torchvision_convnext() -> None:
    model = torchvision.convnext_tiny(num_classes=5).eval()
    make_responsive(model)
    block, x = attention.attach(model, "se").features[1][0], features(2, 96, 7, 5)
    conv, to_last, norm, widen, act, narrow, to_first = block.block
    y = F.linear(act(widen(norm(to_last(conv(x))))), narrow.weight, narrow.bias)  # (N, H, W, C)
    y = narrow.attention(y.permute(0, 3, 1, 2).contiguous())
    torch.testing.assert_close(block(x), x + block.layer_scale * y)
    assert isinstance(to_first(y), Tensor)


@pytest.mark.parametrize("conv_mlp", [False, True])
@torch.no_grad()
def test_attention_position_in_timm_convnext(conv_mlp) -> None:
    model = timm.create_model("convnext_atto", conv_mlp=conv_mlp, ls_init_value=0.5).eval()
    block, x = attention.attach(model, "se").stages[0].blocks[0], features(2, 40, 7, 5)
    y = block.conv_dw(x)
    mlp, last = block.mlp, block.mlp.fc2
    if conv_mlp:
        y = F.conv2d(mlp.act(mlp.fc1(block.norm(y))), last.weight, last.bias)
    else:
        y = F.linear(mlp.act(mlp.fc1(block.norm(y.permute(0, 2, 3, 1)))), last.weight, last.bias).permute(0, 3, 1, 2)
    y = last.attention(y) * block.gamma[:, None, None]
    torch.testing.assert_close(block(x), x + y)


@torch.no_grad()
def test_attention_position_in_regnet() -> None:
    model = attention.attach(torchvision.regnet_x_400mf(num_classes=5).eval(), "se")
    block, x = model.trunk_output.block2[0], features(2, 32, 8, 8)
    conv, norm = block.f.c
    y = F.batch_norm(conv(block.f.b(block.f.a(x))), norm.running_mean, norm.running_var, norm.weight, norm.bias)
    torch.testing.assert_close(block(x), F.relu(block.proj(x) + norm.attention(y)))

    model = timm.create_model("regnety_002").eval()
    make_responsive(model)
    block, x = attention.attach(model, "se").s3.b2, features(2, 152, 4, 4)
    norm = block.conv3.bn
    y = block.conv3.conv(block.se(block.conv2(block.conv1(x))))
    y = norm.attention(F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps))
    torch.testing.assert_close(block(x), F.relu(y + x))


@torch.no_grad()
def test_attention_position_in_a_pre_activation_block() -> None:
    model = attention.attach(timm.create_model("resnetv2_50", layers=FOUR_BLOCKS).eval(), "se")
    block, x = model.stages[0].blocks[0], features(2, 64, 8, 8)
    active = block.norm1(x)
    y = block.norm3(block.conv2(block.norm2(block.conv1(active))))
    y = block.conv3.attention(F.conv2d(y, block.conv3.weight))
    torch.testing.assert_close(block(x), y + block.downsample(active))


@torch.no_grad()
def test_attention_position_without_residual_addition() -> None:
    with pytest.warns(attention.PlacementWarning, match="ShuffleNetV2 has no residual branches"):
        model = attention.attach(torchvision.shufflenet_v2_x0_5(num_classes=5).eval(), "se")
    block, x = model.stage2[1], features(2, 48, 4, 4)
    first_half, second_half = x.chunk(2, dim=1)
    act = block.branch2[7]
    y = act.attention(F.relu(block.branch2[:7](second_half)))
    torch.testing.assert_close(block(x), F.channel_shuffle(torch.cat((first_half, y), 1), 2))

    with pytest.warns(attention.PlacementWarning, match="VGG has no residual branches"):
        model = attention.attach(vgg("torchvision", "vgg11_bn")().eval(), "se")
    x = features(2, 3, 8, 8)
    y = F.relu(model.features[1](model.features[0](x)))
    torch.testing.assert_close(model.features[:3](x.clone()), model.features[2].attention(y))


@torch.no_grad()
def test_attention_position_after_blocks_stages_and_layers() -> None:
    model = torchvision.resnet18(num_classes=5).eval()
    x = features(2, 64, 8, 8)
    first, second = model.layer1
    before = first(x), second(first(x))
    attention.attach(model, "se", stages=(1,), where="block")
    assert list(attention.attached(model)) == ["layer1.0.attention", "layer1.1.attention"]
    torch.testing.assert_close(model.layer1[0](x), model.layer1[0].attention(before[0]))
    attention.detach(model)
    attention.attach(model, "bam", stages=(1, 2, 3), where="stage")
    assert list(attention.attached(model)) == [f"layer{i}.1.attention" for i in (1, 2, 3)]
    torch.testing.assert_close(model.layer1(x), model.layer1[1].attention(before[1]))
    attention.detach(model)
    attention.attach(model, "se", where=["layer4.*.bn2", "conv1"])
    assert list(attention.attached(model)) == ["conv1.attention", "layer4.0.bn2.attention", "layer4.1.bn2.attention"]
    assert model.conv1.attention.channels == 64

    model = torchvision.densenet121(num_classes=5).eval()
    x = features(2, 64, 8, 8)
    before = model.features.denseblock1(x)
    attention.attach(model, "se", stages=(1,), where="stage")
    assert list(attention.attached(model)) == ["features.denseblock1.attention"]
    torch.testing.assert_close(model.features.denseblock1(x), model.features.denseblock1.attention(before))


@pytest.mark.slow
def test_every_module_attaches_to_a_network_without_slots() -> None:
    for name in attention.names():
        model = torchvision.ResNet(torchvision.resnet.BasicBlock, [2, 1, 1, 1], num_classes=5)
        attention.attach(model, name, stages=(1, 2), **({"groups": 8} if name in ("shuffle", "sge") else {}))
        model(torch.randn(2, 3, 32, 32)).sum().backward()
        assert len(attention.attached(model)) == 3
        for parameter in model.parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all()


@pytest.mark.slow
def test_networks_without_a_position_fail() -> None:
    for model, where, message in (
        (timm.create_model("vit_tiny_patch16_224", depth=2), "branch", "blocks.0 of VisionTransformer has no conv"),
        (timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)), "block", "has no convolutions"),
        (timm.create_model("vit_tiny_patch16_224", depth=2), ["blocks.0"], "returns a tensor of 3 dimensions"),
        (timm.create_model("convnext_atto", conv_mlp=False), ["stages.0.blocks.0.mlp.fc2"], "whose channels come last"),
        (torchvision.googlenet(num_classes=5, init_weights=False), "branch", "in where=[...]"),
        (nn.Sequential(nn.Linear(3, 3)), "branch", "has no stages"),
    ):
        keys = list(model.state_dict())
        with pytest.raises(InputError) as error:
            attention.attach(model, "se", where=where)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
        assert list(model.state_dict()) == keys
    model = torchvision.googlenet(num_classes=5, init_weights=False).eval()
    attention.attach(model, "se", where=["inception3?"])
    assert [module.channels for module in attention.attached(model).values()] == [256, 480]
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)


def test_transfer_between_networks_with_attention() -> None:
    student = attention.attach(torchvision.resnet18(num_classes=5), "se")
    teacher = attention.attach(models.create("convnext_atto", 5), "se")
    losses = transfer.Objective(student, teacher, beta=1.0)(torch.randn(2, 3, 64, 64), torch.tensor([1, 2]))
    losses.total.backward()
    assert len(losses.pairs["attention"]) == 4
    assert all(p.grad.isfinite().all() for m in attention.attached(student).values() for p in m.parameters())
