"""Every attention module against its published form: another library's, or the formula written out in loops."""

from __future__ import annotations

import copy
import gc
import math
import re
import weakref
from pathlib import Path

import pytest
import timm.layers
import torch
from timm.layers.cbam import CbamModule
from timm.layers.coord_attn import CoordAttn
from torch import Tensor, nn
from torch.nn import functional as F

from regard import InputError, attention
from regard.attention import SubAttention

C = 16


def make(name: str, channels: int = C, **options) -> nn.Module:
    torch.manual_seed(0)
    layer = attention.create(name, channels, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in layer.named_buffers():
            if name.endswith(("mean", "var")):  # the running statistics of batch norms
                buffer.add_(torch.rand_like(buffer))
    return layer


def outcome(layer, features: Tensor, training: bool) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of the input under a fixed gradient of the output."""
    if isinstance(layer, nn.Module):
        layer.train(training)
    x = features.clone().requires_grad_()
    output = layer(x)
    (gradient,) = torch.autograd.grad(output, x, torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape))
    return output.detach(), gradient


def assert_same(module, reference, training: bool = True, shape: tuple[int, ...] = (2, C, 5, 4)) -> None:
    torch.manual_seed(1)
    features = torch.randn(shape, dtype=torch.float64)
    for actual, expected in zip(
        outcome(module, features, training), outcome(reference, features, training), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


# timm's modules, with the published values where their defaults differ.


def carry_over(reference: nn.Module, module: nn.Module, renamed: dict[str, str]) -> None:
    """Copies the state of `module` to `reference`; `renamed` maps reference prefixes to module prefixes."""
    state = {}
    for key, value in reference.state_dict().items():
        prefix = max((prefix for prefix in renamed if key.startswith(prefix)), key=len)
        state[key] = module.state_dict()[renamed[prefix] + key.removeprefix(prefix)].reshape(value.shape)
    reference.load_state_dict(state)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
class TestAgainstTimm:
    def test_squeeze_and_excitation(self, training) -> None:
        module, reference = make("se", reduction=4), timm.layers.SEModule(C, rd_channels=4).double()
        carry_over(reference, module, {"": ""})
        assert_same(module, reference, training)

    def test_effective_squeeze_and_excitation(self, training) -> None:
        module, reference = make("ese", gate="hard-sigmoid"), timm.layers.EffectiveSEModule(C).double()
        carry_over(reference, module, {"": ""})
        assert_same(module, reference, training)

    @pytest.mark.parametrize("channels", [16, 64, 256])  # timm's kernel is never below 3, which the formula gives too
    def test_efficient_channel_attention(self, training, channels) -> None:
        module, reference = make("eca", channels), timm.layers.EcaModule(channels).double()
        carry_over(reference, module, {"": ""})
        assert_same(module, reference, training, (2, channels, 2, 3))

    def test_convolutional_block_attention(self, training) -> None:
        module = make("cbam", reduction=4)
        reference = CbamModule(C, rd_channels=4, mlp_bias=True).double()
        carry_over(reference, module, {"channel.": "channel.", "spatial.conv.": "spatial."})
        with torch.no_grad():  # timm stacks mean before maximum, the authors maximum before mean
            reference.spatial.conv.conv.weight.copy_(module.spatial.conv.weight.flip(1))
        assert_same(module, reference, training)

    @pytest.mark.parametrize("fusion", ["add", "scale"])
    def test_global_context(self, training, fusion) -> None:
        module = make("gc", reduction=4, fusion=fusion)
        add = fusion == "add"
        reference = timm.layers.GlobalContext(C, rd_channels=4, fuse_add=add, fuse_scale=not add).double()
        carry_over(reference, module, {"conv_attn.": "attend.", f"mlp_{fusion}.": ""})
        getattr(reference, f"mlp_{fusion}").norm.eps = 1e-5  # as in the authors' nn.LayerNorm; timm uses 1e-6
        assert_same(module, reference, training)

    @pytest.mark.parametrize("extent", [0, 2, 4])
    def test_gather_excite_without_parameters(self, training, extent) -> None:
        reference = timm.layers.GatherExcite(C, extent=extent, use_mlp=False).double()
        assert_same(make("ge", extent=extent), reference, training, (2, C, 8, 4))

    def test_coordinate_attention(self, training) -> None:
        module, reference = make("coord"), CoordAttn(C, rd_channels=8, bias=True).double()
        carry_over(reference, module, {"": ""})
        assert_same(module, reference, training)


# The other modules, written out element by element.


def convolved(maps: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1, stride: int = 1) -> Tensor:
    """The convolution of (N, C, H, W), with padding that keeps the size at stride 1."""
    n, _, h, w = maps.shape
    out, fan, side, _ = weight.shape
    reach = side // 2 * dilation
    rows = []
    for i in range(n):
        for o in range(out):
            for y in range(0, h, stride):
                for x in range(0, w, stride):
                    value = maps.new_zeros(()) if bias is None else bias[o]
                    for dy in range(side):
                        for dx in range(side):
                            v, u = y - reach + dy * dilation, x - reach + dx * dilation
                            if 0 <= v < h and 0 <= u < w:
                                value = value + sum(weight[o, c, dy, dx] * maps[i, c, v, u] for c in range(fan))
                    rows.append(value)
    return torch.stack(rows).reshape(n, out, -(-h // stride), -(-w // stride))


def normalised(values: Tensor, norm: nn.Module) -> Tensor:
    """The batch norm of (N, C, …), by channel."""
    channels = []
    for c in range(values.shape[1]):
        channel = values[:, c]
        mean, variance = norm.running_mean[c], norm.running_var[c]
        if norm.training:
            mean = channel.sum() / channel.numel()
            variance = ((channel - mean) ** 2).sum() / channel.numel()
        channels.append((channel - mean) / torch.sqrt(variance + 1e-5) * norm.weight[c] + norm.bias[c])
    return torch.stack(channels, 1)


def sigmoid(value: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-value))


def relu(values: Tensor) -> Tensor:
    return values * (values > 0)


def linear(values: Tensor, layer: nn.Module) -> Tensor:
    """A fully connected layer of a vector."""
    rows = [sum(w * v for w, v in zip(row, values, strict=True)) for row in layer.weight]
    return torch.stack(rows) + (layer.bias if getattr(layer, "bias", None) is not None else 0)


def planes(features: Tensor) -> list[tuple[int, int, Tensor]]:
    n, c, _, _ = features.shape
    return [(i, j, features[i, j]) for i in range(n) for j in range(c)]


def by_plane(features: Tensor, logits) -> Tensor:
    """Multiplies each plane of the features by the sigmoid of its logits."""
    return torch.stack([plane * sigmoid(logits(i, j, plane)) for i, j, plane in planes(features)]).reshape(
        features.shape
    )


def mean_of(plane: Tensor) -> Tensor:
    return sum(plane.flatten()) / plane.numel()


def variance_of(plane: Tensor) -> Tensor:
    return sum((plane.flatten() - mean_of(plane)) ** 2) / (plane.numel() - 1)


class AuthorsStyleRecalibration(nn.Module):
    """Style pooling as in the authors' code: mean, and the square root of the variance plus 1e-5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cfc = nn.Parameter(torch.zeros(channels, 2, dtype=torch.float64))
        self.bn = nn.BatchNorm2d(channels, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        style = torch.stack([flat.mean(2), torch.sqrt(flat.var(2, unbiased=True) + 1e-5)], 2)  # (N, C, 2)
        return x * torch.sigmoid(self.bn(torch.sum(style * self.cfc, 2)[:, :, None, None]))


@pytest.mark.parametrize("scale", [1.0, 1e-3])  # planes with little variance depend on the 1e-5
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_style_based_recalibration(training, scale) -> None:
    module, reference = make("srm"), AuthorsStyleRecalibration(C)
    reference.load_state_dict(module.state_dict())
    assert_same(lambda x: module.train(training)(scale * x), lambda x: reference.train(training)(scale * x), training)


def test_simam() -> None:
    def reference(x: Tensor) -> Tensor:
        return by_plane(x, lambda i, j, plane: (plane - mean_of(plane)) ** 2 / (4 * (variance_of(plane) + 1e-4)) + 0.5)

    assert_same(make("simam"), reference)


def test_spatial_group_wise_enhance() -> None:
    module = make("sge", groups=4)

    def reference(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        images = []
        for i in range(n):
            for g in range(4):
                group = [x[i, j] for j in range(g * c // 4, (g + 1) * c // 4)]
                similarity = sum(mean_of(plane) * plane for plane in group)
                centred = (similarity - mean_of(similarity)) / (variance_of(similarity).sqrt() + 1e-5)
                gate = sigmoid(module.weight[0, g, 0, 0] * centred + module.bias[0, g, 0, 0])
                images += [plane * gate for plane in group]
        return torch.stack(images).reshape(n, c, h, w)

    assert_same(module, reference)


def test_spatial_pyramid_attention() -> None:
    module = make("spa", reduction=4)

    def reference(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        factors = []
        for i in range(n):
            pooled = []
            for side in (1, 2, 4):
                for j in range(c):
                    for a in range(side):
                        for b in range(side):
                            top, bottom = a * h // side, math.ceil((a + 1) * h / side)
                            left, right = b * w // side, math.ceil((b + 1) * w / side)
                            pooled.append(mean_of(x[i, j, top:bottom, left:right]))
            hidden = relu(linear(torch.stack(pooled), module.fc1))
            factors.append(sigmoid(linear(hidden, module.fc2)))
        return torch.stack([plane * factors[i][j] for i, j, plane in planes(x)]).reshape(x.shape)

    assert_same(module, reference, shape=(1, C, 5, 6))


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_triplet_attention(training) -> None:
    module = make("triplet", 3)

    def step(x: Tensor, part: nn.Module) -> Tensor:
        pooled = torch.stack((x.max(1).values, x.sum(1) / x.shape[1]), 1)
        return x * sigmoid(normalised(convolved(pooled, part.conv.weight), part.bn))

    def reference(x: Tensor) -> Tensor:
        over_rows = step(x.permute(0, 2, 1, 3), module.cw).permute(0, 2, 1, 3)
        over_columns = step(x.permute(0, 3, 2, 1), module.hc).permute(0, 3, 2, 1)
        return (step(x, module.hw) + over_rows + over_columns) / 3

    assert_same(module, reference, training, (2, 3, 4, 3))


@pytest.mark.parametrize("combine", ["sum", "product"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_bottleneck_attention(training, combine) -> None:
    module = make("bam", 4, reduction=2, dilation=2, combine=combine)

    def reference(x: Tensor) -> Tensor:
        first, norm, _, last = module.channel
        means = torch.stack([mean_of(plane) for _, _, plane in planes(x)]).reshape(x.shape[:2])
        hidden = relu(normalised(torch.stack([linear(row, first) for row in means]), norm))
        by_channel = torch.stack([linear(row, last) for row in hidden])
        reduce, norm0, _, dilated1, norm1, _, dilated2, norm2, _, final = module.spatial
        maps = relu(normalised(convolved(x, reduce.weight, reduce.bias), norm0))
        maps = relu(normalised(convolved(maps, dilated1.weight, dilated1.bias, 2), norm1))
        maps = relu(normalised(convolved(maps, dilated2.weight, dilated2.bias, 2), norm2))
        by_pixel = convolved(maps, final.weight, final.bias)[:, 0]
        logits = {
            "sum": lambda i, j: by_channel[i, j] + by_pixel[i],
            "product": lambda i, j: by_channel[i, j] * by_pixel[i],
        }
        images = [plane + plane * sigmoid(logits[combine](i, j)) for i, j, plane in planes(x)]
        return torch.stack(images).reshape(x.shape)

    assert_same(module, reference, training, (2, 4, 4, 5))


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("variant", ["theta", "theta-plus"])
def test_gather_excite_with_parameters(variant, training) -> None:
    module = make("ge", 4, extent=4, variant=variant, reduction=2)

    def reference(x: Tensor) -> Tensor:
        conv1, norm1, _, conv2, norm2 = module.gather
        maps = x
        for conv, norm, last in ((conv1, norm1, False), (conv2, norm2, True)):
            maps = torch.cat([convolved(maps[:, j : j + 1], conv.weight[j : j + 1], stride=2) for j in range(4)], 1)
            maps = normalised(maps, norm)
            maps = maps if last else relu(maps)
        if variant == "theta-plus":
            _, down, _, up = module.excite
            maps = convolved(relu(convolved(relu(maps), down.weight, down.bias)), up.weight, up.bias)
        n, c, h, w = x.shape
        nearest = [[maps[:, :, y * maps.shape[2] // h, u * maps.shape[3] // w] for u in range(w)] for y in range(h)]
        logits = torch.stack([torch.stack(row, 2) for row in nearest], 2)
        return x * sigmoid(logits)

    assert_same(module, reference, training, (2, 4, 7, 8))


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_gather_excite_of_the_whole_map(training) -> None:
    module = make("ge", 4, variant="theta", size=(3, 2))

    def reference(x: Tensor) -> Tensor:
        conv, norm = module.gather
        sums = torch.stack([(plane * conv.weight[j, 0]).sum() for _, j, plane in planes(x)])
        logits = normalised(sums.reshape(x.shape[:2]), norm)
        return by_plane(x, lambda i, j, plane: logits[i, j])

    assert_same(module, reference, training, (2, 4, 3, 2))


def recurrent(cell: nn.Module, mean: Tensor, h: Tensor, c: Tensor, gate=sigmoid) -> tuple[Tensor, Tensor]:
    """The published cell, for one image: means, h, c of (C,)."""
    z = sum(
        linear(relu(linear(values, layers[0])), layers[2]) for values, layers in ((mean, cell.input), (h, cell.hidden))
    )
    size = len(mean)
    enter, keep, candidate, out = (z[k * size : (k + 1) * size] for k in range(4))
    c = sigmoid(keep) * c + sigmoid(enter) * torch.tanh(candidate)
    return sigmoid(out) * gate(c), c


class TestDIA:
    """The recurrent module, which is shared within a stage."""

    def stage(self, blocks: int = 3, **options) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(*attention.DIA.for_stage([4] * blocks, dtype=torch.float64, **options))

    def test_a_stage_agrees_with_the_published_cell(self) -> None:
        module = self.stage(reduction=2)

        def reference(x: Tensor) -> Tensor:
            images = []
            for image in x:
                h = c = image.new_zeros(4)
                for _ in range(3):
                    h, c = recurrent(module[0].cell, torch.stack([mean_of(plane) for plane in image]), h, c)
                    image = torch.stack([plane * factor for plane, factor in zip(image, h, strict=True)])
                images.append(image)
            return torch.stack(images)

        assert_same(module, reference, shape=(2, 4, 3, 2))

    def test_the_gate_replaces_the_sigmoid_of_the_state(self) -> None:
        module = make("dia", 4, gate=SubAttention(1))

        def reference(x: Tensor) -> Tensor:
            zero = x.new_zeros(4)
            w, b = module.cell.gate.w.flatten(), module.cell.gate.b.flatten()
            images = []
            for image in x:
                means = torch.stack([mean_of(plane) for plane in image])
                h, _ = recurrent(module.cell, means, zero, zero, lambda u: sigmoid(u) * sigmoid(w * u + b))
                images.append(image * h[:, None, None])
            return torch.stack(images)

        assert_same(module, reference, shape=(2, 4, 3, 2))

    def test_blocks_share_one_cell(self) -> None:
        stage = self.stage()
        single = attention.create("dia", 4)
        count = sum(p.numel() for p in single.parameters())
        assert sum(p.numel() for p in stage.parameters()) == count
        for block in stage:
            assert [id(p) for p in block.parameters()] == [id(p) for p in stage[0].parameters()]

    def test_copies_and_saved_stages_share_their_own_cell(self, tmp_path) -> None:
        stage, features = self.stage(), torch.randn(2, 4, 3, 3, dtype=torch.float64)
        expected = stage(features)
        stage[0](features)  # leaves a state, which copies must not contain
        torch.save(stage, tmp_path / "stage.pt")
        for other in (copy.deepcopy(stage), torch.load(tmp_path / "stage.pt", weights_only=False)):
            assert torch.equal(other(features), expected)
            with torch.no_grad():
                for p in other[2].parameters():
                    p.add_(1)
            assert not torch.equal(other(features), expected)
            assert torch.equal(other[0].cell.input[0].weight, other[1].cell.input[0].weight)
        assert torch.equal(stage(features), expected)

    def test_every_forward_pass_starts_and_ends_without_state(self) -> None:
        stage = self.stage()
        for n in (2, 5, 1):
            features = torch.randn(n, 4, 3, 3, dtype=torch.float64, requires_grad=True)
            first = stage(features)
            assert torch.equal(stage(features), first)
        stage[0](features)  # an aborted pass
        assert torch.equal(stage(features), first)
        weak_reference = weakref.ref(features)  # alive as long as any part of the graph is
        del features, first
        gc.collect()
        assert weak_reference() is None

    def test_the_state_carries_gradients(self) -> None:
        stage = self.stage(2)
        first, second = (torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
        stage[0](first)
        stage[1](second).sum().backward()
        assert first.grad.abs().sum() > 0

    def test_blocks_out_of_order_fail(self) -> None:
        stage, features = self.stage(), torch.randn(2, 4, 3, 3, dtype=torch.float64)
        with pytest.raises(InputError, match="block 2 of 3 .* without block 1"):
            stage[1](features)
        stage[0](features)
        with pytest.raises(InputError, match="block 3 of 3 .* without block 2"):
            stage[2](features)
        stage(features)
        with pytest.raises(InputError, match="did you mean 'reduction'"):
            self.stage(redaction=2)

    @pytest.mark.slow
    def test_a_stage_compiles_and_exports_as_one_graph(self) -> None:
        stage = self.stage().eval()
        batches = [torch.randn(n, 4, 3, 3, dtype=torch.float64) for n in (2, 3)]
        program = torch.export.export(stage, (batches[0],), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
        compiled = torch.compile(stage, fullgraph=True, dynamic=True, backend="aot_eager")
        for batch in batches:
            torch.testing.assert_close(program(batch), stage(batch))
            torch.testing.assert_close(compiled(batch), stage(batch))


# Parameters for 64 channels (256 in the documentation), counted by hand from the papers and the authors' code.
COUNTS = {
    "bam": 1173,
    "cbam": 580 + 100,
    "coord": 1688,
    "dia": 10784,
    "eca": 3,
    "ese": 4160,
    "gc": 653,
    "ge": 0,
    "se": 580,
    "sge": 128,
    "shuffle": 6,
    "simam": 0,
    "spa": 5632,
    "srm": 256,
    "triplet": 300,
}


def count(name: str, channels: int, **options) -> int:
    return sum(p.numel() for p in attention.create(name, channels, **options).parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name) -> None:
    assert count(name, 64, **({"groups": 32} if name == "shuffle" else {})) == COUNTS[name]


def test_the_documented_table_lists_all_parameter_counts() -> None:
    table = (Path(__file__).parents[2] / "docs" / "how-to" / "attention.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| .* \| (\d+)[^|]*\|$", table, re.MULTILINE)
    assert {name: int(number) for name, number in rows} == {name: count(name, 256) for name in attention.names()}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"extent": 4, "variant": "theta"}, 1408),
        ({"variant": "theta", "size": 7}, 3264),
        ({"variant": "theta-plus", "size": 7}, 3264 + 580),
        ({"extent": 8}, 0),
    ],
)
def test_parameter_counts_of_gather_excite(options, expected) -> None:
    assert sum(p.numel() for p in attention.create("ge", 64, **options).parameters()) == expected


# Millions of parameters of ResNet-50 with each module, from table 1 of SA-Net; without attention it has 25.557. (The
# table truncates 25.557740 of shuffle attention to 25.557; the other values are rounded.)
@pytest.mark.parametrize(("name", "total"), [("se", 28.088), ("cbam", 28.090), ("sge", 25.559), ("eca", 25.557)])
def test_published_totals_of_resnet50(name, total) -> None:
    added = 0
    for blocks, channels in ((3, 256), (4, 512), (6, 1024), (3, 2048)):
        with torch.device("meta"):
            added += blocks * sum(p.numel() for p in attention.create(name, channels).parameters())
    assert round((25_557_032 + added) / 1e6, 3) == total


# Initial values.


def test_kernel_sizes_of_efficient_channel_attention() -> None:
    sizes = {c: attention.create("eca", c).conv.kernel_size[0] for c in (1, 8, 64, 128, 256, 512, 1024, 2048)}
    assert sizes == {1: 1, 8: 3, 64: 3, 128: 5, 256: 5, 512: 5, 1024: 5, 2048: 7}


def test_published_initial_values() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 64, 6, 5)
    assert torch.equal(attention.create("gc", 64)(x), x)
    torch.testing.assert_close(attention.create("gc", 64, fusion="scale")(x), 0.5 * x)
    torch.testing.assert_close(attention.create("srm", 64)(x), 0.5 * x)
    torch.testing.assert_close(attention.create("sge", 64)(x), torch.sigmoid(torch.ones(())) * x)
    cbam = attention.create("cbam", 64)
    torch.testing.assert_close(cbam(x), 0.5 * cbam.channel(x))
    triplet = attention.create("triplet", 64)
    assert [part.bn.weight.item() for part in (triplet.cw, triplet.hc, triplet.hw)] == [1, 1, 0]
    for name in ("bam", "cbam", "coord"):
        layer = attention.create(name, 64)
        assert all(not p.any() for key, p in layer.named_parameters() if key.endswith("bias"))
    for name in ("cbam", "triplet"):
        for norm in attention.create(name, 64).modules():
            if isinstance(norm, nn.BatchNorm2d):
                assert (norm.eps, norm.momentum) == (1e-5, 0.01)


@pytest.mark.parametrize(
    ("name", "options", "key", "std"),
    [
        ("bam", {}, "spatial.3.weight", math.sqrt(2 / (9 * 64))),
        ("coord", {"reduction": 4}, "conv1.weight", math.sqrt(2 / 256)),
        ("coord", {"reduction": 4}, "conv_h.weight", math.sqrt(2 / 1024)),
        ("ese", {}, "fc.weight", math.sqrt(2 / 1024)),
        ("gc", {}, "attend.weight", math.sqrt(2 / 1024)),
        ("ge", {"variant": "theta-plus", "extent": 2}, "gather.0.weight", math.sqrt(2 / 9)),
        ("ge", {"variant": "theta-plus", "extent": 2}, "excite.1.weight", 0.01),
        ("triplet", {"kernel_size": 31}, "cw.conv.weight", math.sqrt(2 / 31**2)),
    ],
)
def test_standard_deviations_of_published_initial_values(name, options, key, std) -> None:
    torch.manual_seed(0)
    weight = attention.create(name, 1024, **options).get_parameter(key)
    assert (weight.std() / std).item() == pytest.approx(1, abs=3.5 / math.sqrt(2 * weight.numel()))


# Maps of one pixel have a variance of 0.


def test_maps_of_one_pixel() -> None:
    x = torch.randn(2, 8, 1, 1, dtype=torch.float64)
    srm = make("srm", 8)
    mean = x[:, :, 0, 0]
    logits = F.batch_norm(
        srm.cfc[:, 0] * mean + srm.cfc[:, 1] * 1e-5**0.5, None, None, srm.bn.weight, srm.bn.bias, training=True
    )
    torch.testing.assert_close(srm(x), x * torch.sigmoid(logits)[:, :, None, None])
    sge = make("sge", 8, groups=4)
    torch.testing.assert_close(sge(x), x * torch.sigmoid(sge.bias).repeat_interleave(2, 1))
    torch.testing.assert_close(make("simam", 8)(x), x * torch.sigmoid(torch.tensor(0.5, dtype=x.dtype)))
