"""Every attention module: shapes, gradients, gates, initial values, wrong input."""

from __future__ import annotations

import copy
import itertools
from contextlib import nullcontext
from functools import partial

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.modules import OPTIONS
from timm import layers as timm_layers
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from regard import InputError, attention
from regard.attention import HardSigmoid, SubAttention, kernels
from regard.attention.kernels import native

VARIANTS = {
    "bam as a product": ("bam", {"combine": "product"}),
    "gc added": ("gc", {"fusion": "add"}),
    "ge theta-minus of extent 2": ("ge", {"extent": 2}),
    "ge theta of extent 4": ("ge", {"extent": 4, "variant": "theta"}),
    "ge theta of the whole map": ("ge", {"variant": "theta", "size": (3, 2)}),
    "ge theta-plus of extent 2": ("ge", {"extent": 2, "variant": "theta-plus", "reduction": 4}),
}
GATES = ["sigmoid", HardSigmoid(), *(SubAttention(order) for order in range(3))]


def make(name: str, channels: int = 8, **settings):
    torch.manual_seed(0)
    options = {**OPTIONS.get(name, {}), "dtype": torch.float64, **settings}
    layer = attention.create(name, channels, **options)
    with torch.no_grad():  # away from the initial values, where some gradients are 0
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def check_gradients(layer: nn.Module) -> None:
    features = torch.randn(2, 8, 3, 2, dtype=torch.float64, requires_grad=True)
    assert layer(features).shape == features.shape

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(dict(layer.named_parameters()), values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (features, *layer.parameters()))


QUICK_GATES = [SubAttention(1)]


@pytest.mark.parametrize(
    "gate", [*QUICK_GATES, *(pytest.param(g, marks=pytest.mark.slow) for g in GATES if g not in QUICK_GATES)], ids=str
)
@pytest.mark.parametrize("name", attention.names())
def test_gradients(name, gate) -> None:
    check_gradients(make(name, gate=gate))


@pytest.mark.parametrize("order", [3, 4, 5])
def test_gradients_of_high_orders(order) -> None:
    check_gradients(make("se", gate=SubAttention(order)))


@pytest.mark.parametrize("name", [name for name in attention.names() if list(make(name).buffers())])
def test_gradients_at_inference(name) -> None:
    check_gradients(make(name, gate=SubAttention(1)).eval())


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_variants(variant) -> None:
    name, options = VARIANTS[variant]
    check_gradients(make(name, **options))


@pytest.mark.parametrize("name", attention.names())
def test_sub_attention_of_order_0_is_the_plain_gate(name) -> None:
    features = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    plain, zero = make(name), make(name, gate=SubAttention(0))
    assert plain.state_dict().keys() == zero.state_dict().keys()
    assert torch.equal(plain(features), zero(features))


@given(order=st.integers(0, 5), n=st.integers(0, 3), c=st.integers(1, 5), h=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_the_sub_attention_gate_agrees_with_its_formula(order, n, c, h) -> None:
    gate = SubAttention(order).build(c, dtype=torch.float64)
    logits = torch.randn(n, c, h, 1, dtype=torch.float64)
    expected, u = torch.ones_like(logits), logits
    for i in range(order + 1):
        expected = expected / (1 + torch.exp(-u))
        if i < order:
            u = 0.5 * u - 0.5  # the published start
    torch.testing.assert_close(gate(logits), expected)
    assert sum(p.numel() for p in gate.parameters()) == 2 * order * c


def test_shuffle_false_keeps_the_channel_order() -> None:
    features = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    unshuffled, shuffled = make("shuffle", shuffle=False), make("shuffle")
    order = torch.arange(8).reshape(2, 4).T.flatten()
    assert torch.equal(unshuffled(features)[:, order], shuffled(features))


@pytest.mark.parametrize("name", attention.names())
def test_a_gate_adds_only_its_own_parameters(name) -> None:
    plain, gated = make(name, gate="sigmoid"), make(name, gate=SubAttention(2))
    added = [key for key in gated.state_dict() if key not in plain.state_dict()]
    assert plain.state_dict().keys() <= gated.state_dict().keys()
    # One pair w and b per order and channel of the logits: per channel, group or map.
    channels = {"cbam": 8 + 1, "coord": 8 + 8, "dia": 8, "sge": 4, "triplet": 3}.get(name)
    channels = channels or plain.logits(torch.randn(2, 8, 4, 4, dtype=torch.float64)).shape[1]
    assert sum(gated.state_dict()[key].numel() for key in added) == 2 * 2 * channels


@pytest.mark.parametrize("name", attention.names())
def test_half_precision_and_copies(name) -> None:
    layer = make(name).float()
    features = torch.randn(2, 8, 5, 3)
    assert copy.deepcopy(layer)(features).equal(layer(features))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(features).isfinite().all()


@pytest.mark.parametrize("gate", ["sigmoid", "hard-sigmoid"])
@pytest.mark.parametrize("name", ["shuffle", "sge", "simam"])
def test_statistics_of_float16_features_are_exact(name, gate) -> None:
    layer = make(name, gate=gate).half()
    layers = [layer, layer.ordered()] if name == "shuffle" else [layer]
    for layer, scale in itertools.product(layers, (0.01, 30, 1000)):  # squares of 256 overflow in float16
        features = (scale * (1 + torch.randn(2, 8, 5, 3))).half()
        expected = copy.deepcopy(layer).double()(features.double())
        torch.testing.assert_close(layer(features).double(), expected, rtol=0, atol=0.005 * expected.abs().max().item())


@pytest.mark.parametrize("name", attention.names())
def test_output_dtype_does_not_depend_on_the_gate(name) -> None:
    layer = make(name, gate=SubAttention(1)).bfloat16()
    for module in layer.modules():
        if isinstance(module, type(SubAttention(1).build(1))):
            module.float()
    features = torch.randn(2, 8, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    output = layer(features)
    output.sum().backward()
    assert output.dtype == features.grad.dtype == torch.bfloat16
    expected = copy.deepcopy(layer).float()(features.detach().float())
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", attention.names())
def test_memory_layout_does_not_matter(name) -> None:
    layer = make(name).eval()
    wide = torch.randn(2, 8, 10, 4, dtype=torch.float64)
    for features in (wide.to(memory_format=torch.channels_last), wide[:, :, ::2], wide.transpose(2, 3), wide.flip(0)):
        results = []
        for x in (features, features.contiguous()):
            x = x.detach().requires_grad_()
            output = layer(x)
            output.backward(wide.new_ones(()).expand_as(output))
            results += [output, x.grad]
        torch.testing.assert_close(results[0], results[2])
        torch.testing.assert_close(results[1], results[3])


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", attention.names())
def test_empty_batches_and_maps_of_one_pixel(name, training) -> None:
    layer = make(name, gate=SubAttention(1)).train(training)
    for shape in ((0, 8, 4, 4), (2, 8, 1, 1), (3, 8, 1, 5)):
        features = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        output = layer(features)
        output.sum().backward()
        assert output.shape == features.grad.shape == shape
        for value in (output, features.grad, *(p.grad for p in layer.parameters()), *layer.buffers()):
            assert value is not None
            assert value.isfinite().all()


@pytest.mark.parametrize("name", attention.names())
def test_constant_maps_have_gradients(name) -> None:
    features = torch.zeros(2, 8, 3, 3, dtype=torch.float64, requires_grad=True)  # as after a ReLU with dead channels
    layer = make(name)
    layer(features).sum().backward()
    assert all(value.grad.isfinite().all() for value in (features, *layer.parameters()))


@pytest.mark.parametrize("name", attention.names())
def test_inputs_are_unchanged(name) -> None:
    features = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    before = features.clone()
    make(name)(features)
    assert torch.equal(features, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*attention.names(), "gc added"])
def test_modules_compile_and_export_with_dynamic_batches(name) -> None:
    torch.compiler.reset()
    kind, options = VARIANTS.get(name, (name, {"gate": SubAttention(1)}))
    layer = make(kind, **options).eval()
    batches = [torch.randn(n, 8, 4, 4, dtype=torch.float64, requires_grad=True) for n in (2, 3, 5)]
    program = torch.export.export(layer, (batches[0],), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()

    def branch_and_shortcut(x):  # which share the gradient of their sum
        return layer(x) + x

    compiled = torch.compile(branch_and_shortcut, fullgraph=True, dynamic=True, backend="eager")
    for batch in batches:
        torch.testing.assert_close(program(batch), layer(batch))
        results = []
        for run in (compiled, branch_and_shortcut):
            output = run(batch)
            results.append((output, *torch.autograd.grad(output.square().sum(), batch)))
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", attention.names())
def test_feature_extractors_trace_networks(name) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), make(name, gate=SubAttention(1)).float(), nn.ReLU())
    images = torch.randn(2, 3, 6, 5)
    extractor = create_feature_extractor(network, ["0", "2"]).eval()
    features = extractor(images)
    torch.testing.assert_close(features["2"], network.eval()(images))
    # The traced network accepts other batch sizes.
    copied = copy.deepcopy(extractor).eval()(torch.cat((images, images)))
    torch.testing.assert_close(copied["2"], torch.cat((features["2"], features["2"])))
    gradients = []
    for run in (lambda x: extractor(x)["2"], network):
        x = images.clone().requires_grad_()
        gradients.append(torch.autograd.grad(run(x).square().sum(), x)[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_can_be_traced(variant) -> None:
    name, options = VARIANTS[variant]
    layer, x = make(name, **options).eval(), torch.randn(2, 8, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(torch.fx.symbolic_trace(layer)(x), layer(x))


@pytest.mark.parametrize("name", attention.names())
def test_timm_builds_networks_with_regard_layers(name) -> None:
    layer_type = type(make(name))
    options = {"groups": 4} if name in ("shuffle", "sge") else {}
    layer = attention.layer(name, gate=SubAttention(1) if name != "gc" else "sigmoid", **options)
    narrow = {"channels": (16, 32, 48, 64)}
    model = timm.create_model("resnet18", num_classes=3, block_args={"attn_layer": layer}, **narrow)
    modules = [module for module in model.modules() if isinstance(module, layer_type)]
    assert [module.channels for module in modules] == 2 * [16] + 2 * [32] + 2 * [48] + 2 * [64]
    assert name in ("dia", "gc") or any(key.endswith(("gate.w", "gate_h.w")) for key in model.state_dict())
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    for created in (
        timm_layers.create_attn(layer_type, 64, **options, device="cpu", dtype=torch.float64),
        timm_layers.create_attn(layer, 64, device="cpu", dtype=torch.float64),
    ):
        assert {p.dtype for p in created.parameters()} <= {torch.float64}


@pytest.mark.parametrize("name", ["se", "eca", "cbam", "spa"])
def test_layers_accept_the_keywords_of_timm_blocks(name) -> None:
    layer = attention.layer(name)
    model = timm.create_model("test_efficientnet", num_classes=3, se_layer=layer)
    assert any(isinstance(module, type(layer(8))) for module in model.modules())
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    if name == "se":
        assert (
            layer(64, rd_ratio=0.25).fc1.out_features == layer(64, rd_channels=16, act_layer=nn.SiLU).fc1.out_features
        )
        assert layer(64, rd_ratio=0.25).fc1.out_features == 16 and layer(64).fc1.out_features == 4
        assert attention.layer("se", reduction=2)(64, rd_ratio=0.25).fc1.out_features == 32
    if name == "eca":
        with pytest.raises(TypeError, match="no rd_ratio"):
            layer(64, rd_ratio=0.25)
    for call, message in (
        (lambda: attention.layer("sea"), "unknown"),
        (lambda: attention.layer("se", groups=2)(8), "groups"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_custom_modules_are_created() -> None:
    features = torch.randn(2, 64, 4, 4, dtype=torch.float64)
    for module, options in (
        (timm_layers.EcaModule, {}),
        (timm_layers.EffectiveSEModule, {}),
        (partial(timm_layers.SEModule, rd_ratio=0.25), {"rd_divisor": 1}),
        (attention.SqueezeExcitation, {"gate": SubAttention(2), "reduction": 4}),
        (lambda channels: nn.BatchNorm2d(channels), {}),
    ):
        layer = attention.create(module, 64, dtype=torch.float64, **options)
        assert layer(features).shape == features.shape
        assert {p.dtype for p in layer.parameters()} == {torch.float64}


WRONG_FEATURES = {
    "fewer channels": lambda x: x[:, :7],
    "half the channels": lambda x: x[:, :4],
    "twice the channels": lambda x: torch.cat((x, x), 1),
    "more channels": lambda x: torch.cat((x, x[:, :1]), 1),
    "1 channel": lambda x: x[:, :1],
    "0 channels": lambda x: x[:, :0],
    "0 rows": lambda x: x[:, :, :0],
    "0 columns": lambda x: x[..., :0],
    "one image": lambda x: x[0],
    "vectors": lambda x: x.mean((2, 3)),
    "clips": lambda x: x[..., None],
    "integers": lambda x: x.long(),
    "booleans": lambda x: x > 0,
    "complex numbers": lambda x: x.to(torch.complex128),
    "another device": lambda x: x.to("meta"),
}


@pytest.mark.parametrize("path", [nullcontext, kernels.reference], ids=["kernels", "formula"])
@pytest.mark.parametrize("name", attention.names())
def test_wrong_features_fail_on_every_path(monkeypatch, name, path) -> None:
    monkeypatch.setattr(native, "SMALL", 0)
    layers = [make(name, gate=SubAttention(1))]
    if name == "shuffle":
        layers.append(layers[0].ordered())
    features = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    for layer in layers:
        for case, change in WRONG_FEATURES.items():
            with path(), pytest.raises(InputError) as error:
                layer(change(features))
            message = str(error.value)
            assert type(layer).__name__ in message and "\n" not in message, (case, message)
        # Features with another dtype than the parameters; a gate's parameters may have a different one.
        if any("gate" not in key for key, _ in layer.named_parameters()):
            with path(), pytest.raises(InputError, match="float64.*float32"):
                layer(features.float())


def test_wrong_options_fail_with_one_line() -> None:
    for call, message in (
        (lambda: attention.create("sufle", 64), "did you mean 'shuffle'"),
        (lambda: attention.create("se", 0), "at least 1 channel"),
        (lambda: attention.create("se", 64, redaction=4), "did you mean 'reduction'"),
        (
            lambda: attention.create("shuffle", 64, groups=64),
            "groups that fit: 1, 2, 4, 8, 16, 32; in a recipe, model.attention_options: {groups: 32}",
        ),
        (lambda: attention.create("se", 64, gate="softmax"), "known: sigmoid, hard-sigmoid"),
        (lambda: attention.create("se", 64, reduction=0), "at least 1, not 0"),
        (lambda: attention.create("sge", 96), "groups that fit: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96"),
        (lambda: attention.create("eca", 64, kernel_size=4), "odd"),
        (lambda: attention.create("cbam", 64, kernel_size=6), "odd"),
        (lambda: attention.create("triplet", 64, kernel_size=0), "odd"),
        (lambda: attention.create("simam", 64, e_lambda=0), "above 0"),
        (lambda: attention.create("bam", 64, combine="summ"), "did you mean 'sum'"),
        (lambda: attention.create("gc", 64, fusion="mul"), "known: add, scale"),
        (lambda: attention.create("gc", 64, gate=SubAttention(1)), "fusion='scale' has one"),
        (lambda: attention.create("ge", 64, variant="theta+"), "theta-plus"),
        (lambda: attention.create("ge", 64, extent=3), "power of 2"),
        (lambda: attention.create("ge", 64, variant="theta"), "give size=(H, W)"),
        (lambda: attention.create("ge", 64, size=7), "no use for size=7"),
        (lambda: attention.create("ge", 8, variant="theta", size=7)(torch.ones(2, 8, 7, 6)), "got 7 x 6"),
        (lambda: attention.DIA.for_stage([64, 128]), "not 64, 128"),
        (lambda: attention.DIA.for_stage([]), "not none"),
        (lambda: attention.create(timm_layers.EcaModule, 64, gate=SubAttention(1)), "EcaModule has no gate"),
        (lambda: attention.create(timm_layers.EcaModule, 64, kernel=3), "did you mean 'kernel_size'"),
        (lambda: attention.create(nn.Identity(), 64), "by its name or its class, not Identity"),
        (lambda: attention.create(lambda channels: None, 64), "returned NoneType; expected an attention module"),
        (lambda: attention.create("se", 64, gate=SubAttention), "SubAttention(order=1)"),
        (lambda: attention.create("se", 64, reduction="x"), "'se' does not take the options {'reduction': 'x'}"),
        (lambda: attention.create("shuffle", 64, groups=8.0), "'shuffle' does not take the options {'groups': 8.0}"),
        (lambda: SubAttention(-1), "from 0 to 1000, not -1"),
        (lambda: attention.register("se")(torch.nn.Identity), "registered already"),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_gates_are_parsed_from_names() -> None:
    assert attention.parse_gate("hard-sigmoid") == HardSigmoid()
    assert attention.parse_gate("sub-attention") == SubAttention(1)
    assert attention.parse_gate("sub-attention-4") == SubAttention(4)
    assert attention.parse_gate(SubAttention(2)) == SubAttention(2)


def test_the_hard_sigmoid_gate_agrees_with_its_formula() -> None:
    gate = HardSigmoid().build(3)
    logits = torch.tensor([-4.0, -3.0, -1.5, 0.0, 1.5, 3.0, 4.0])
    torch.testing.assert_close(gate(logits), torch.tensor([0, 0, 0.25, 0.5, 0.75, 1, 1]))


@pytest.mark.parametrize("name", attention.names())
def test_modules_created_on_meta_load_state_dicts(name) -> None:
    layer = make(name, gate=SubAttention(1)).eval()
    with torch.device("meta"):
        empty = attention.create(name, 8, gate=SubAttention(1), dtype=torch.float64, **OPTIONS.get(name, {}))
    filled = empty.to_empty(device="cpu").eval()
    filled.load_state_dict(layer.state_dict())
    features = torch.randn(2, 8, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(filled(features), layer(features))


@pytest.mark.parametrize("gate", ["sigmoid", SubAttention(2)], ids=str)
@pytest.mark.parametrize("name", [*attention.names(), "gather-excite theta-plus"])
def test_reset_parameters_restores_the_initial_values(name, gate) -> None:
    name, options = (
        (name, OPTIONS.get(name, {})) if name in attention.names() else VARIANTS["ge theta-plus of extent 2"]
    )
    torch.manual_seed(0)
    layer = attention.create(name, 8, gate=gate, **options)
    with torch.device("meta"):
        empty = attention.create(name, 8, gate=gate, **options)
    other = empty.to_empty(device="cpu")
    for value in other.state_dict().values():
        value.fill_(7)
    torch.manual_seed(0)
    other.reset_parameters()
    for key, value in layer.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


def test_reset_parameters_initialises_modules_created_on_meta() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    for name in ("cbam", "coord"):
        with torch.device("meta"):
            model.append(attention.create(name, 8))
    model.to_empty(device="cpu").apply(lambda module: getattr(module, "reset_parameters", lambda: None)())
    assert model(torch.randn(2, 3, 9, 9)).isfinite().all()
    assert (
        not model[3].channel.fc1.bias.any() and not model[3].spatial.bn.weight.any() and not model[4].conv1.bias.any()
    )
