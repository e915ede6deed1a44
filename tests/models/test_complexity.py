"""The costs of networks: compared with counts by hand and with published numbers, and measured."""

from __future__ import annotations

import math
import time

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils import flop_counter

from regard import InputError, attention, models

# SA-Net, arXiv 2102.00240: parameters in millions and GFLOPs, as printed.
SA_NET = {
    ("resnet50", None): ("25.557", "4.122"),
    ("resnet50", "se"): ("28.088", "4.130"),
    ("resnet50", "cbam"): ("28.090", "4.139"),
    ("resnet50", "sge"): ("25.559", "4.127"),
    ("resnet50", "eca"): ("25.557", "4.127"),
    ("resnet50", "shuffle"): ("25.557", "4.125"),
    ("resnet101", None): ("44.549", "7.849"),
    ("resnet101", "se"): ("49.327", "7.863"),
    ("resnet101", "cbam"): ("49.330", "7.879"),
    ("resnet101", "sge"): ("44.553", "7.858"),
    ("resnet101", "eca"): ("44.549", "7.858"),
    ("resnet101", "shuffle"): ("44.551", "7.854"),
}


class Network(nn.Module):
    """A network from a forward function and the modules it uses."""

    def __init__(self, forward, **parts: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return self.run(self, x)


def test_every_kind_of_operation_equals_the_count_by_hand() -> None:
    def forward(net, x):  # (1, 3, 8, 6)
        x = F.relu(net.norm(net.conv(x)))  # (1, 4, 4, 3)
        x = F.group_norm(x, 2) * torch.sigmoid(x.mean(1, keepdim=True))
        line = net.line(x.mean((2, 3))[:, None])[:, 0]  # (1, 4)
        x = F.max_pool2d(x, 2)  # (1, 4, 2, 1)
        return net.fc(line + x.amax((2, 3)))  # (1, 5)

    net = Network(
        forward,
        conv=nn.Conv2d(3, 4, 3, stride=2, padding=1),
        norm=nn.BatchNorm2d(4),
        line=nn.Conv1d(1, 1, 3, padding=1, bias=False),
        fc=nn.Linear(4, 5),
    )
    cost = models.complexity(net, (8, 6))
    features = 4 * 4 * 3
    assert cost.parameters == (3 * 4 * 9 + 4) + 8 + 3 + 25
    assert cost.operations == {
        "convolution": 3 * 9 * features,
        "1-d convolution": 3 * 4,
        "convolution bias": features,
        "matrix product": 4 * 5,
        "batch norm": 2 * features,
        "other norm": features,
        "rectifier": features,
        "other activation": 4 * 3,
        "spatial pooling": features + features + 8,  # mean, max pooling, largest value
        "other reduction": features,
        "elementwise": features + 4 + 5,  # product with the gate, sum of both branches, bias of fc
    }
    assert cost.multiply_adds == 27 * features + 12 + 20
    assert cost.published_flops == 27 * features + features + 20 + 2 * features + features + 2 * features + 8


def test_networks_for_images_of_one_channel() -> None:
    net = Network(lambda net, x: net.conv(x), conv=nn.Conv2d(1, 4, 3, padding=1))
    assert models.complexity(net, (8, 6)).multiply_adds == 4 * 9 * 48
    grey = Network(lambda net, x: net.conv(x.mean(1, keepdim=True)), conv=net.conv)  # takes three channels
    assert models.complexity(grey, (8, 6)).operations["other reduction"] == 3 * 48


def test_a_mean_that_centres_is_not_pooling() -> None:
    cost = models.complexity(Network(lambda _, x: x - x.mean((2, 3), keepdim=True)), 4)
    assert cost.operations.get("spatial pooling", 0) == 0
    assert cost.operations["other norm"] == cost.operations["elementwise"] == 48
    rows = models.complexity(Network(lambda _, x: x.mean(3) * 2), 4)
    assert rows.operations == {"spatial pooling": 48, "elementwise": 12}


def test_uncounted_operators_are_named() -> None:
    cost = models.complexity(Network(lambda _, x: torch.cat((x, x), 1).reshape(2, -1).cumsum(1)), 4)
    assert cost.uncounted == {"cumsum": 1}
    assert cost.multiply_adds == cost.published_flops == 0


@pytest.mark.parametrize(
    ("name", "size"), [("mobilenetv3_small_050", 64), ("vit_tiny_patch16_224", 224), ("convnext_atto", 64)]
)
def test_multiply_adds_of_published_networks_equal_the_layers_sum(name, size) -> None:
    model = models.create(name).eval()
    by_hand = []

    def add_count(layer, args, output) -> None:
        if isinstance(layer, nn.Linear):
            by_hand.append(output.numel() * layer.in_features)
        elif isinstance(layer, nn.Conv2d):
            by_hand.append(output.numel() * layer.weight[0].numel())

    for layer in model.modules():
        layer.register_forward_hook(add_count)
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    expected = sum(by_hand)
    if name.startswith("vit"):  # 12 blocks of attention between 196 patches and a class token, 192 values each
        expected += 12 * 2 * 197**2 * 192
    assert models.complexity(model, size).multiply_adds == expected


def tokens(x):
    return x.flatten(2).transpose(1, 2)  # (1, 16, 3) of an image of 4 x 4


def self_attention(net, x):
    y = net.enter(tokens(x))
    return net.layer(y, y, y, need_weights=net.weights)[0]


def dot_products(net, x):
    y = net.enter(tokens(x))[:, None]
    return F.scaled_dot_product_attention(y, y, y)


def encoded(net, x):
    return net.layer(net.enter(tokens(x)))


def encoded_with_mask(net, x):
    return net.layer(net.enter(tokens(x)), src_key_padding_mask=torch.zeros(1, 16, dtype=torch.bool, device=x.device))


def transformer_layer():
    return nn.TransformerEncoderLayer(12, 2, 20, batch_first=True)


def attention_network(weights):
    net = Network(self_attention, enter=nn.Linear(3, 12), layer=nn.MultiheadAttention(12, 2, batch_first=True))
    net.weights = weights
    return net


ENTER, COMPARE = 16 * 3 * 12, 2 * 16 * 16 * 12  # a linear layer on 16 tokens; their dot products and weighted sums
HEADS, HIDDEN = 16 * 4 * 12 * 12, 16 * 2 * 12 * 20
# Layers that torch runs as one fused operator in evaluation: network and multiply-adds.
FUSED = {
    "convolution": (lambda: nn.Conv2d(3, 5, 3), 5 * 2 * 2 * 27),
    "linear": (lambda: Network(lambda net, x: net.fc(tokens(x)), fc=nn.Linear(3, 12)), ENTER),
    "einsum": (
        lambda: Network(lambda net, x: torch.einsum("nchw,oc->nohw", x, net.fc.weight), fc=nn.Linear(3, 12)),
        ENTER,
    ),
    "dot products": (lambda: Network(dot_products, enter=nn.Linear(3, 12)), ENTER + COMPARE),
    "attention": (lambda: attention_network(False), ENTER + HEADS + COMPARE),
    "attention with weights": (lambda: attention_network(True), ENTER + HEADS + COMPARE),
    "transformer layer": (
        lambda: Network(encoded, enter=nn.Linear(3, 12), layer=transformer_layer()),
        ENTER + HEADS + COMPARE + HIDDEN,
    ),
    "transformer with a mask": (
        lambda: Network(encoded_with_mask, enter=nn.Linear(3, 12), layer=nn.TransformerEncoder(transformer_layer(), 2)),
        ENTER + 2 * (HEADS + COMPARE + HIDDEN),
    ),
    "lstm": (
        lambda: Network(lambda net, x: net.rnn(tokens(x))[0], rnn=nn.LSTM(3, 5, 2, bidirectional=True)),
        16 * 2 * 4 * 5 * (3 + 5 + 10 + 5),
    ),
    "gru": (lambda: Network(lambda net, x: net.rnn(tokens(x))[0], rnn=nn.GRU(3, 5)), 16 * 3 * 5 * (3 + 5)),
    "rnn": (lambda: Network(lambda net, x: net.rnn(tokens(x))[0], rnn=nn.RNN(3, 5)), 16 * 5 * (3 + 5)),
    "bilinear": (lambda: Network(lambda net, x: net.fc(tokens(x), tokens(x)), fc=nn.Bilinear(3, 3, 7)), 16 * 7 * 3 * 3),
    "deformable convolution": (
        lambda: Network(
            lambda net, x: net.conv(x, net.offset(x)),
            offset=nn.Conv2d(3, 18, 3, padding=1),
            conv=torchvision.ops.DeformConv2d(3, 6, 3, padding=1),
        ),
        16 * 27 * (18 + 6),
    ),
}


@pytest.mark.parametrize("name", FUSED)
def test_every_execution_path_of_torch_is_counted_alike(name) -> None:
    build, multiply_adds = FUSED[name]
    model = build()

    def branching(net, x):
        return net.model(x) if float(x.sum()) < 1 else x  # depends on values

    plain = models.complexity(model, 4)
    assert plain.multiply_adds == multiply_adds and plain.uncounted == {}
    branching_cost = models.complexity(Network(branching, model=model), 4)
    for cost in (plain, branching_cost):
        counts = {kind: count for kind, count in cost.operations.items() if kind != "other reduction"}
        assert counts == {kind: count for kind, count in plain.operations.items() if kind != "other reduction"}
    with torch.inference_mode():
        assert models.complexity(model, 4).operations == plain.operations
        assert models.complexity(Network(branching, model=model), 4).operations == branching_cost.operations
    inferring = Network(torch.inference_mode()(lambda net, x: net.model(x)), model=model)
    assert models.complexity(inferring, 4).operations == plain.operations


def packed_sequences(net, x):
    return net.rnn(nn.utils.rnn.pack_padded_sequence(tokens(x), [16], batch_first=True))[0].data


PIXELS = 4 * 4
MOVING = {
    "nearest neighbours": (Network(lambda _, x: F.interpolate(x, scale_factor=2) * 1), {"elementwise": 4 * 3 * PIXELS}),
    "detached in place": (Network(lambda _, x: x.clone().detach_().squeeze_(0) * 1), {"elementwise": 3 * PIXELS}),
    "packed sequences": (
        Network(packed_sequences, rnn=nn.RNN(3, 5, batch_first=True)),
        {"matrix product": PIXELS * 5 * (3 + 5), "elementwise": PIXELS * 5 * 3, "other activation": PIXELS * 5},
    ),
}


@pytest.mark.parametrize("name", MOVING)
def test_moving_values_costs_nothing_in_inference_mode(name) -> None:
    model, operations = MOVING[name]
    plain = models.complexity(model, 4)
    with torch.inference_mode():
        inferring = models.complexity(model, 4)
    assert inferring.operations == plain.operations == operations
    assert inferring.uncounted == plain.uncounted == {}


def test_uncounted_operators_are_listed_and_both_branches_count() -> None:
    cost = models.complexity(Network(lambda _, x: torch.fft.fft2(torch.cat((x, x), 1)).real.cumsum(1)), 4)
    assert cost.multiply_adds == 0 and {"cumsum"} < cost.uncounted.keys() and "cat" not in cost.uncounted
    branches = Network(lambda _, x: torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,)))
    assert models.complexity(branches, 4).operations["elementwise"] == 1 + 2 * 48  # both branches


@torch.library.custom_op("regard_tests::cube", mutates_args=())
def cube(x: torch.Tensor) -> torch.Tensor:
    return x**3


cube.register_fake(torch.empty_like)


@pytest.mark.parametrize("inference", [False, True])
def test_a_custom_operator_is_uncounted_until_it_has_a_formula(inference, monkeypatch) -> None:
    model = Network(torch.inference_mode(inference)(lambda _, x: cube(x)))
    monkeypatch.setattr(flop_counter, "flop_registry", dict(flop_counter.flop_registry))
    cost = models.complexity(model, 4)
    assert cost.uncounted == {"cube": 1} and not cost.operations
    flop_counter.register_flop_formula(torch.ops.regard_tests.cube)(lambda x, *, out_shape: 4 * math.prod(x))
    cost = models.complexity(model, 4)
    assert cost.uncounted == {} and cost.multiply_adds == 2 * 48


def test_transposed_and_grouped_convolutions() -> None:
    up = nn.ConvTranspose2d(3, 6, 4, stride=2, groups=3, bias=False)
    assert models.complexity(up, 5).multiply_adds == 3 * 25 * 2 * 16
    assert models.complexity(nn.Conv2d(3, 6, 3, groups=3, bias=False), 5).multiply_adds == 6 * 9 * 9


def test_counting_on_meta_tensors_and_on_values_agrees() -> None:
    def branching(net, x):
        if float(x.sum()) > 1e9:  # depends on values
            raise AssertionError
        return net.inner(x)

    model = models.create("cifar-resnet11", attention="se").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost = models.complexity(model, 16)
    forced = models.complexity(Network(branching, inner=model), 16)
    assert (forced.parameters, forced.multiply_adds) == (cost.parameters, cost.multiply_adds)
    assert forced.published_flops == cost.published_flops
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_image_sizes_that_do_not_fit_are_refused() -> None:
    with torch.device("meta"):
        model = models.create("vgg11")
    with pytest.raises(InputError, match="VGG does not take an image of 8 x 8"):
        models.complexity(model, 8)
    with pytest.raises(InputError, match="at least 1 x 1 pixels, not -3 x -3"):
        models.complexity(nn.Conv2d(3, 4, 3), -3)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet50", "resnet101"])
def test_costs_equal_the_table_of_sa_net(network) -> None:
    modules = [name for of, name in SA_NET if of == network and name]
    rows = models.count_costs([network], modules)
    assert len(rows) == 6
    for row in rows:
        cost = row.complexity
        parameters, gflops = SA_NET[network, row.attention]
        assert (row.published.parameters, row.published.gflops) == (parameters, gflops)
        assert f"{cost.published_flops / 1e9:.3f}" == gflops, row.attention
        if (network, row.attention) == ("resnet50", "shuffle"):
            assert cost.parameters == 25_557_740  # 25.558; the footnote says what the paper counts
            assert "prints 25.557 M parameters: by its abstract" in row.note and "708" in row.note
        else:
            assert f"{cost.parameters / 1e6:.3f}" == parameters, row.attention
            assert row.note == ""


def test_published_numbers_need_the_published_configuration() -> None:
    def row(module, *, gate="sigmoid", stages=None, image_size=224, classes=1000):
        return models.Cost("resnet50", module, attention.parse_gate(gate), stages, image_size, classes).published

    assert row("se").gflops == "4.130" and row(None, stages=(4,)).gflops == "4.122"
    assert row("se", image_size=64) is row("se", classes=10) is row("simam") is None
    assert row("se", gate="sub-attention-1") is row("se", stages=(4,)) is None


def test_count_costs_compares_networks_and_modules() -> None:
    rows = models.count_costs(["wrn-10-1", "resnet18"], ["se", "shuffle"], classes=7)
    assert [(row.network, row.attention) for row in rows] == [
        ("wrn-10-1", None),
        ("wrn-10-1", "se"),
        ("wrn-10-1", "shuffle"),
        ("resnet18", None),
        ("resnet18", "se"),
        ("resnet18", "shuffle"),
    ]
    assert [row.image_size for row in rows] == [32] * 3 + [224] * 3
    small, with_se, with_shuffle = rows[:3]
    assert with_se.base is small and with_se.problem == ""
    assert with_se.complexity.parameters - small.complexity.parameters == sum(
        sum(p.numel() for p in attention.create("se", channels).parameters()) for channels in (16, 32, 64)
    )
    assert with_shuffle.complexity is None and "64 groups" in with_shuffle.problem
    assert rows[5].problem and rows[3].complexity.parameters == 11_180_103


def test_measure_costs_fills_in_time_and_memory() -> None:
    rows = models.count_costs(["wrn-10-0.5"], ["se", "shuffle"], image_size=8)
    models.measure_costs(rows, batch=2, repeats=2)
    plain, with_se, with_shuffle = rows
    assert with_shuffle.latency is None and with_shuffle.peak_memory is None
    for row in (plain, with_se):
        assert len(row.latency.inference.seconds) == len(row.latency.training_step.seconds) == 2
        assert row.latency.inference.median > 0
        assert 0 < row.peak_memory.inference < row.peak_memory.training_step


def test_latency_alternates_networks_and_restores_their_state() -> None:
    turns = []

    def network(name, seconds):
        def forward(net, x):
            turns.append((name, net.training, torch.is_grad_enabled()))
            time.sleep(seconds)
            return net.norm(x).mean((2, 3)) * net.fc.weight[0, 0]

        return Network(forward, norm=nn.BatchNorm2d(3), fc=nn.Linear(1, 1))

    networks = {"quick": network("quick", 0.0), "slow": network("slow", 0.02)}
    networks["slow"].norm.eval()
    before = {name: {k: v.clone() for k, v in net.state_dict().items()} for name, net in networks.items()}
    latencies = models.latency(networks, torch.randn(4, 3, 6, 6), repeats=3, warmup=1)
    one_round = ["quick", "slow"]
    assert turns == [(n, False, False) for n in one_round * 4] + [(n, True, True) for n in one_round * 4]
    assert len(latencies["slow"].inference.seconds) == 3
    assert latencies["slow"].inference.median >= 0.02 and latencies["slow"].training_step.median >= 0.02
    for name, net in networks.items():
        assert all(torch.equal(before[name][k], v) for k, v in net.state_dict().items())
        assert all(p.grad is None for p in net.parameters())
    assert networks["quick"].norm.training and not networks["slow"].norm.training and networks["slow"].training


def test_times_have_median_and_quartiles() -> None:
    times = models.Times((5.0, 1.0, 2.0, 4.0, 3.0))
    assert times.median == 3.0 and times.quartiles == (2.0, 4.0)
    assert models.Times((2.0,)).quartiles == (2.0, 2.0)


def test_peak_memory_equals_the_count_by_hand() -> None:
    def forward(net, x):
        return (x * net.scale.weight[0, 0]).exp().flatten(1)

    images = torch.randn(4, 3, 64, 64)
    size = images.numel() * 4
    peak = models.peak_memory(Network(forward, scale=nn.Linear(1, 1)), images)
    # the product and its exponential
    assert 2 * size <= peak.inference < 2 * size + 1024
    # the exponential and its log-softmax, which are saved, and the gradients of both
    assert 4 * size <= peak.training_step < 4 * size + 1024


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: models.count_costs(["resnt50"]), "did you mean"),
        (lambda: models.count_costs(["wrn-10-1"], ["see"]), "unknown attention module 'see'"),
        (lambda: models.count_costs(["wrn-10-1"], ["se"], gate="tanh"), "unknown gate 'tanh'"),
        (lambda: models.count_costs(["wrn-10-1"], image_size=0), "image_size is 0"),
        (lambda: models.count_costs(["wrn-10-1"], classes=0), "at least 1 class"),
        (lambda: models.count_costs(["vgg11"], image_size=8), "vgg11: VGG does not take an image of 8 x 8"),
        (lambda: models.count_costs(["wrn-10-1"], ["se"], stages=(5,)), "stages 1 to 3, not 5"),
        (lambda: models.count_costs(["wrn-10-1"], ["shuffle"]), "no module can be attached to any of the networks"),
        (lambda: models.measure_costs([], batch=0), "at least 1 image, not 0"),
        (lambda: models.latency({}, torch.zeros(1, 3, 8, 8), repeats=0), "at least 1 repeat"),
        (
            lambda: models.peak_memory(nn.Identity(), torch.zeros(1, 3, 8, 8, device="meta")),
            "cpu and cuda, not on meta",
        ),
        (
            lambda: models.latency({"a": models.create("wrn-10-1")}, torch.zeros(2, 4, 8, 8)),
            "inference of WideResNet on 2 images of 8 x 8 in float32 failed",
        ),
    ],
)
def test_wrong_input_fails_with_one_line(call, words) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)
