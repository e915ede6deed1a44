"""A folded network computes the same outputs with fewer norms."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import FrozenBatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from regard import InputError, attention, maps, models
from regard.attention.fold import FoldedNormAct
from regard.maps.layers import last_features
from regard.stages import stages


def randomized(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with noise on every statistic and parameter of the norms."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and value.ndim == 1:
                noise = torch.rand(value.shape, generator=generator, dtype=torch.float64).to(value)
                value.copy_(noise + 0.3 if "running_var" in name else value + noise - 0.4)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def images(size: int = 32, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def check(model: nn.Module, left: int, x: Tensor | None = None, **options: Any) -> nn.Module:
    """Folds `model` in float64 and compares the outputs; `left` is the number of norms that remain."""
    model = randomized(model.double())
    before = copy.deepcopy(model.state_dict())
    folded = attention.fold(model, **options)
    with torch.no_grad():
        x = images() if x is None else x
        torch.testing.assert_close(folded(x), model(x), rtol=1e-9, atol=1e-9)
    assert norms(folded) == left
    assert not any(module.training for module in folded.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return folded


NETWORKS: dict[str, tuple[dict[str, Any], int, int]] = {  # options, image size, remaining norms
    "resnet18": ({}, 32, 0),
    "resnet50": ({}, 32, 0),
    "resnet50d": ({}, 32, 0),
    # bn0 of all blocks except the first, and the last norm, read sums; the first bn0 reads conv0
    "wrn-16-2": ({}, 32, 6),
    "wrn-16-1": ({}, 32, 7),
    "preact-resnet18": ({}, 32, 8),
    "cifar-resnet20": ({"block": "basic"}, 32, 0),
    "mobilenetv3_small_100": ({}, 32, 0),
    "efficientnet_b0": ({}, 32, 0),
    "convnext_atto": ({}, 32, 0),
    "vit_tiny_patch16_224": ({}, 224, 0),
    "densenet121": ({}, 32, 62),
    "regnety_002": ({}, 32, 0),
    "torchvision/mobilenet_v2": ({}, 32, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_folded_networks_agree(name: str, relative_error: Callable[[Tensor, Tensor], float]) -> None:
    options, size, left = NETWORKS[name]
    model = randomized(models.create(name, 10, **options).double())
    folded = attention.fold(model)
    compare(model, folded, images(size), 1e-9, relative_error)
    assert norms(folded) == left
    assert {name for name, _ in model.named_modules()} == {name for name, _ in folded.named_modules()}


@pytest.mark.parametrize(
    ("name", "module", "options"),
    [
        ("resnet18", "shuffle", {"groups": 4}),
        ("cifar-resnet20", "coord", {}),
        ("wrn-10-1", "shuffle", {"groups": 4}),
        ("mobilenetv3_small_050", "se", {}),
        ("torchvision/resnet18", "se", {}),
        ("torchvision/resnet18", "shuffle", {"groups": 4}),
    ],
)
def test_folded_networks_with_attention_agree(
    name: str, module: str, options: dict[str, Any], relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    gate = attention.SubAttention(order=1)
    network_options = {"block": "basic"} if name.startswith("cifar") else {}
    model = models.create(name, 10, attention=module, gate=gate, attention_options=options, **network_options)
    folded = attention.fold(randomized(model))
    compare(model, folded, images(32, torch.float32), 1e-4, relative_error)
    assert norms(folded) == (4 if name == "wrn-10-1" else 0)


def compare(model: nn.Module, folded: nn.Module, x: Tensor, tolerance: float, relative_error: Any) -> None:
    try:
        names = list(stages(model))
    except InputError:
        names = []
    assert not names or (list(stages(folded)) == names and last_features(folded) == last_features(model))
    with torch.no_grad(), maps.Taps(model, names) as taps, maps.Taps(folded, names) as folded_taps:
        expected, actual = model(x), folded(x)
    assert relative_error(actual, expected) < tolerance
    for name in names:
        assert relative_error(folded_taps.features[name], taps.features[name]) < tolerance, name


def test_folding_keeps_the_stages_of_plain_layers() -> None:
    plain = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)]
    model = nn.Sequential(*plain, nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert list(stages(check(model, 0))) == list(stages(model)) == ["2", "6"]


class Net(nn.Module):
    """A convolution and a norm, which `run` applies to the images."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def conv_norm_relu(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)).relu_()


def also_returning(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = net.conv(x)
    return net.norm(y), y


def also_remembering(net: Any, x: Tensor) -> Tensor:
    net.features = net.conv(x)
    return net.norm(net.features)


def also_adding(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return y + net.norm(y)


def two_norms(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y) + net.other(y)


def by_value(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y) if x.mean() > -1 else y


def by_size(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y) if x.shape[-1] < 100 else y.relu()


def one_norm_or_another(chooses: Callable[[Tensor], Any]) -> nn.Module:
    """A network whose values decide which norm runs: zeros choose one, the images of the tests the other."""
    return Net(lambda net, x: (net.norm if chooses(x) else net.other)(net.conv(x)), other=nn.BatchNorm2d(4))


def tokens(net: Any, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(conv_norm_relu(net, x), 4).flatten(2).transpose(1, 2)  # (N, 16, 4)


def held_in_a_list() -> nn.Module:
    net = Net(lambda net, x: net.held[0](net.conv(x)))
    net.held = [net.norm]
    return net


def tied() -> nn.Module:
    net = Net(lambda net, x: conv_norm_relu(net, x) + net.other(x), other=nn.Conv2d(3, 4, 3, padding=1))
    net.other.weight = net.conv.weight
    return net


class Doubled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input) + 1


class Padded(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(F.pad(input, (1, 0, 1, 0)), self.weight, self.bias)


class Unbiased(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight)


class Standardised(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight / self.weight.std(), self.bias)


class Recurrent(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(super().forward(input))


class Scaled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input * self.weight.std())


SCALE = torch.tensor(2.0, dtype=torch.float64)
CASES: dict[str, tuple[Callable[[], nn.Module], int]] = {  # networks, and the numbers of remaining norms
    "plain": (lambda: Net(conv_norm_relu), 0),
    "dropout between": (lambda: Net(lambda net, x: net.norm(net.drop(net.conv(x))), drop=nn.Dropout()), 0),
    "held in a list": (held_in_a_list, 0),
    "an activation between": (lambda: Net(lambda net, x: net.norm(net.conv(x).relu())), 1),
    "one in place between": (lambda: Net(lambda net, x: net.norm(net.conv(x).relu_())), 1),
    "also added": (lambda: Net(also_adding), 1),
    "also returned": (lambda: Net(also_returning), 1),
    "also remembered": (lambda: Net(also_remembering), 1),
    "two norms of one layer": (lambda: Net(two_norms, other=nn.BatchNorm2d(4)), 2),
    "two layers of one norm": (
        lambda: Net(lambda net, x: net.norm(net.conv(x)) + net.norm(net.other(x)), other=nn.Conv2d(3, 4, 3, padding=1)),
        1,
    ),
    "both called twice": (lambda: Net(lambda net, x: net.norm(net.conv(x)) + net.norm(net.conv(x.flip(3)))), 0),
    "the layer called twice": (lambda: Net(lambda net, x: net.norm(net.conv(x)) + net.conv(x.flip(3))), 1),
    "its weights read": (lambda: Net(lambda net, x: net.norm(net.conv(x)) * net.conv.weight.abs().sum()), 1),
    "the norm's read": (lambda: Net(lambda net, x: net.norm(net.conv(x)) * net.norm.running_var.sum()), 1),
    "by hand": (lambda: Net(lambda net, x: net.norm(F.conv2d(x, net.conv.weight, net.conv.bias, padding=1))), 1),
    "by value": (lambda: Net(by_value), 1),
    "by the positions of values": (lambda: one_norm_or_another(lambda x: len(x.nonzero())), 2),
    "by a mask": (lambda: one_norm_or_another(lambda x: x[x > 0].numel()), 2),
    "by different values": (lambda: one_norm_or_another(lambda x: len(x.unique()) > 1), 2),
    "by closeness": (lambda: one_norm_or_another(lambda x: not torch.allclose(x, x * 0)), 2),
    "by a list": (lambda: one_norm_or_another(lambda x: x.flatten().tolist()[0]), 2),
    "by an array": (lambda: one_norm_or_another(lambda x: np.asarray(x).any()), 2),
    "before a transformer layer": (
        lambda: Net(
            lambda net, x: net.last(net.layer(tokens(net, x)).flatten(1)),
            layer=nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
            last=nn.BatchNorm1d(64),
        ),
        1,
    ),
    "before attention": (
        lambda: Net(
            lambda net, x: net.last(net.layer(*[tokens(net, x)] * 3)[0].flatten(1)),
            layer=nn.MultiheadAttention(4, 2, batch_first=True),
            last=nn.BatchNorm1d(64),
        ),
        1,
    ),
    "before a recurrent layer": (
        lambda: Net(
            lambda net, x: net.last(net.layer(tokens(net, x))[0][:, -1]),
            layer=nn.LSTM(4, 5, batch_first=True),
            last=nn.BatchNorm1d(5),
        ),
        1,
    ),
    "before a bilinear layer": (
        lambda: Net(
            lambda net, x: net.last(net.layer(*[tokens(net, x)[:, 0]] * 2)),
            layer=nn.Bilinear(4, 4, 5),
            last=nn.BatchNorm1d(5),
        ),
        1,
    ),
    "inside inference mode": (lambda: Net(torch.inference_mode()(conv_norm_relu)), 0),
    "by size": (lambda: Net(by_size), 1),
    "with a tensor of no module": (lambda: Net(lambda net, x: conv_norm_relu(net, x) * SCALE), 0),
    "statistics of the batch": (lambda: Net(conv_norm_relu, norm=nn.BatchNorm2d(4, track_running_stats=False)), 1),
    "shared weights": (tied, 1),
    "computed weights": (lambda: Net(conv_norm_relu, conv=parametrizations.weight_norm(nn.Conv2d(3, 4, 3))), 1),
    "a subclass that pads": (lambda: Net(conv_norm_relu, conv=Padded(3, 4, 3, bias=False)), 1),
    "one that doubles": (lambda: Net(conv_norm_relu, conv=Doubled(3, 4, 3)), 1),
    "one that takes no bias": (lambda: Net(conv_norm_relu, conv=Unbiased(3, 4, 3, bias=False)), 1),
    "one that changes its weights": (lambda: Net(conv_norm_relu, conv=Standardised(3, 4, 3)), 1),
    "one that runs twice": (lambda: Net(conv_norm_relu, conv=Recurrent(3, 3, 3), norm=nn.BatchNorm2d(3)), 1),
    "one that looks at its weights": (lambda: Net(conv_norm_relu, conv=Scaled(3, 4, 3)), 1),
    "groups": (
        lambda: Net(
            conv_norm_relu, conv=nn.Conv2d(3, 6, 3, groups=3, bias=False), norm=nn.BatchNorm2d(6, affine=False)
        ),
        0,
    ),
    "transposed": (lambda: Net(conv_norm_relu, conv=nn.ConvTranspose2d(3, 4, 3, stride=2)), 0),
    "transposed, groups": (
        lambda: Net(conv_norm_relu, conv=nn.ConvTranspose2d(3, 6, 3, groups=3), norm=nn.BatchNorm2d(6)),
        1,
    ),
    "linear": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 32), nn.Flatten(), nn.Linear(8, 5, bias=False), nn.BatchNorm1d(5)),
        0,
    ),
    "linear, of tokens": (lambda: nn.Sequential(nn.Flatten(2), nn.Linear(32 * 32, 3), nn.BatchNorm1d(3)), 1),
    "frozen": (lambda: Net(conv_norm_relu, norm=FrozenBatchNormAct2d(4)), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_only_norms_that_are_safe_to_fold_are_folded(name: str) -> None:
    build, left = CASES[name]
    torch.manual_seed(0)
    check(build(), left)


def test_folding_in_inference_mode_gives_a_differentiable_copy() -> None:
    model = randomized(models.create("cifar-resnet11", attention="shuffle", attention_options={"groups": 4}).double())
    with torch.inference_mode():
        folded = attention.fold(model)
    assert norms(folded) == 0 and not any(p.is_inference() for p in folded.parameters())
    x = images().requires_grad_()
    torch.testing.assert_close(folded(x), model(x), rtol=1e-9, atol=1e-9)
    folded(x).sum().backward()
    assert x.grad is not None


def test_frozen_norms_are_folded() -> None:
    folded = check(Net(conv_norm_relu, norm=FrozenBatchNormAct2d(4)), 0)
    assert isinstance(folded.norm, FoldedNormAct) and isinstance(folded.norm.act, nn.ReLU)


def output_of(model: nn.Module, layer: str) -> Tensor:
    """The output of the layer, before any change in place."""
    outputs: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(
        lambda _module, _args, output: outputs.append(output.clone())
    )
    with torch.no_grad():
        model(images())
    hook.remove()
    return outputs[0]


def test_kept_layers_keep_their_outputs() -> None:
    inner = nn.Sequential(nn.Conv2d(4, 5, 1), nn.Dropout())
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), inner, nn.BatchNorm2d(5), nn.Hardtanh())
    for keep, left in (
        (["1"], 0),
        (["0"], 1),
        (["3"], 1),
        (["3.0"], 1),
        (["3.1"], 1),
        (["0", "3"], 2),
        (["2", "5"], 0),
    ):
        folded = check(model, left, keep=keep)
        for layer in keep:
            torch.testing.assert_close(output_of(folded, layer), output_of(model, layer), rtol=1e-9, atol=1e-9)
    with pytest.raises(InputError, match="unknown layer '4.0'"):
        attention.fold(model, ["4.0"])


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18"])
@pytest.mark.parametrize("layer", ["layer2.1.conv2", "layer2.1.bn2", "layer2.1"])
def test_kept_layers_keep_their_channel_order(name: str, layer: str) -> None:
    model = randomized(models.create(name, 5, attention="shuffle", attention_options={"groups": 4}).double())
    folded = attention.fold(model, [layer])
    assert torch.allclose(output_of(folded, layer), output_of(model, layer), rtol=1e-9, atol=1e-9)
    left = sum(isinstance(module, attention.ShuffleAttention) for module in folded.modules())
    # In torchvision's ResNet the attention is attached to the norm, whose output has the right order.
    assert left == (layer.endswith("conv2") or (layer.endswith("bn2") and name == "resnet18"))


def test_layers_inside_attention_are_kept() -> None:
    layer = "layer2.0.attention.conv1"
    model = models.create("cifar-resnet8", 5, block="basic", attention="coord")
    folded = check(model, 1, keep=[layer])
    assert torch.allclose(output_of(folded, layer), output_of(model, layer), rtol=1e-9, atol=1e-9)


def test_layers_with_hooks_are_kept() -> None:
    outputs: list[Tensor] = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).double()
    model[0].register_forward_hook(lambda _module, _args, output: outputs.append(output))
    folded = check(model, 1)
    assert len(outputs) == 2 and isinstance(folded[1], nn.BatchNorm2d)  # one from the model, one from the copy
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-9, atol=1e-9)


def test_attention_on_a_folded_norm_is_kept() -> None:
    model = models.create("torchvision/resnet18", 5, attention="se", attention_stages=(1,))
    folded = attention.fold(model)
    assert isinstance(folded.get_submodule("layer1.0.bn2.without_attention"), nn.Identity)
    assert (
        list(attention.attached(folded))
        == list(attention.attached(model))
        == [f"layer1.{block}.bn2.attention" for block in (0, 1)]
    )


def test_folded_norms_keep_their_activation() -> None:
    folded = attention.fold(randomized(models.create("mobilenetv3_small_050", 5)))
    assert isinstance(folded.bn1, FoldedNormAct) and isinstance(folded.get_submodule("bn1.act"), nn.Hardswish)
    named = folded.get_submodule("blocks.0.0.bn2")  # without an activation of its own
    assert isinstance(named, FoldedNormAct) and isinstance(named.act, nn.Identity)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    model = randomized(Net(conv_norm_relu)).to(dtype)
    folded = attention.fold(model)
    exact = attention.fold(copy.deepcopy(model).double())
    assert torch.equal(folded.conv.weight, exact.conv.weight.to(dtype))
    assert torch.equal(folded.conv.bias, exact.conv.bias.to(dtype))


def test_memory_format_and_requires_grad_are_kept() -> None:
    model = randomized(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 8, 3)))
    model.append(nn.BatchNorm2d(8).eval()).to(memory_format=torch.channels_last)
    model[0].requires_grad_(False)
    folded = attention.fold(model)
    for i, requires_grad in ((0, False), (2, True)):
        assert folded[i].weight.is_contiguous(memory_format=torch.channels_last)
        assert folded[i].weight.requires_grad == folded[i].bias.requires_grad == requires_grad
    assert norms(folded) == 0


def test_folding_again_changes_nothing() -> None:
    folded = check(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), 0)
    check(folded, 0)


def test_wrapped_models_fail() -> None:
    with pytest.raises(InputError, match="wrapped in DataParallel; fold the model inside"):
        attention.fold(nn.DataParallel(Net(conv_norm_relu)))
