"""The gates of modules and their moments by class, against plain sums over all images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.modules import OPTIONS
from torch import nn

from regard import attention, models
from regard.errors import InputError
from regard.studies.gates import attention_layers, gate_activations
from regard.studies.moments import MomentsByClass

VARIANTS = [
    ("bam", {"combine": "product"}),
    ("ge", {"extent": 2}),
    ("ge", {"extent": 4, "variant": "theta"}),
    ("shuffle", {"shuffle": False}),
]
MODULES = [(name, {}) for name in attention.names()] + VARIANTS
GATES = ["sigmoid", "hard-sigmoid", attention.SubAttention(order=2)]


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64 and evaluation mode, with noise on the parameters: initially many gates are constant."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    return model.eval()


def network(name: str, gate="sigmoid", **options) -> nn.Module:
    options = {**OPTIONS.get(name, {}), **options}
    torch.manual_seed(0)
    return randomized(models.create("wrn-10-0.5", 5, attention=name, gate=gate, attention_options=options))


@pytest.fixture
def batches():
    """23 images of classes 1, 3 and 4 in batches of uneven size; one without a label."""
    draw = torch.Generator().manual_seed(2)
    images = torch.randn(23, 3, 16, 16, generator=draw, dtype=torch.float64)
    labels = torch.tensor([1, 3, 4, 4, 3])[torch.randint(5, (23,), generator=draw)]
    labels[7] = -1
    return [(images[a:b], labels[a:b], "more") for a, b in ((0, 1), (1, 10), (10, 23))]


def inputs_of(model: nn.Module, batches):
    """Name -> (inputs, outputs) of all images; labels."""
    pairs: dict[str, list] = {}
    handles = [
        module.register_forward_hook(
            lambda module, args, output, name=name: pairs.setdefault(name, []).append((args[0], output))
        )
        for name, module in attention.attached(model).items()
    ]
    with torch.no_grad():
        for images, *_ in batches:
            model(images)
    for handle in handles:
        handle.remove()
    joined = {name: tuple(torch.cat(parts) for parts in zip(*calls, strict=True)) for name, calls in pairs.items()}
    return joined, torch.cat([labels for _, labels, *_ in batches]).numpy()


@pytest.mark.parametrize("gate", GATES, ids=str)
@pytest.mark.parametrize(("name", "options"), MODULES, ids=str)
def test_gate_values_are_the_factors_of_the_output(name, options, gate):
    torch.manual_seed(0)
    module = randomized(attention.create(name, 8, gate=gate, **{**OPTIONS.get(name, {}), **options}))
    x = torch.randn(3, 8, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        factors = module.gate_values(x)
        product = (x * factors)[:, getattr(module, "order", torch.arange(8))]
        torch.testing.assert_close(product, module(x), rtol=1e-10, atol=1e-12)
    assert factors.std() > 1e-4


@pytest.mark.parametrize("name", attention.names())
def test_moments_by_class_of_every_module(name, batches):
    model = network(name, gate="sub-attention")
    result = gate_activations(model, batches)
    inputs, labels = inputs_of(model, batches)
    assert list(result.layers) == list(inputs) and len(inputs) == 3
    assert result.classes == (1, 3, 4)
    assert result.images == tuple((labels == k).sum() for k in (1, 3, 4))
    for layer, (x, output) in inputs.items():
        y = output[:, torch.argsort(result.layers[layer].order)]
        factors = torch.where(x.abs() > 1e-9, y / x, torch.nan)  # computed from the product itself
        gates = factors.nanmean((2, 3)).numpy()[:, result.layers[layer].order]
        moments = result.layers[layer].by_class
        for k, label in enumerate(result.classes):
            class_gates = gates[labels == label]
            np.testing.assert_allclose(moments.mean[k], class_gates.mean(0), rtol=1e-6)
            np.testing.assert_allclose(
                moments.squares[k], ((class_gates - class_gates.mean(0)) ** 2).sum(0), rtol=1e-5, atol=1e-12
            )
            np.testing.assert_array_equal(moments.row(label), moments.mean[k])
        counted = gates[labels >= 0]
        np.testing.assert_allclose(moments.overall, counted.mean(0), rtol=1e-6)
        np.testing.assert_allclose(moments.between + moments.within, counted.var(0), rtol=1e-5, atol=1e-12)
        assert result.layers[layer].module == type(model.get_submodule(layer)).__name__


def test_eta_squared_of_a_layer(batches):
    model = network("se")
    result = gate_activations(model, batches)
    inputs, labels = inputs_of(model, batches)
    (name, layer), *_ = result.layers.items()
    gates = model.get_submodule(name).gate_values(inputs[name][0]).detach().flatten(1).numpy()[labels >= 0]
    labels = labels[labels >= 0]
    between = sum((labels == k).sum() * (gates[labels == k].mean(0) - gates.mean(0)) ** 2 for k in (1, 3, 4))
    eta = between / ((gates - gates.mean(0)) ** 2).sum(0)
    assert layer.eta_squared == pytest.approx(eta.mean(), rel=1e-9)
    assert 0 < layer.eta_squared < 1
    assert result.chance == pytest.approx(2 / 21)
    levels = layer.quantiles((0, 0.5, 1))
    np.testing.assert_allclose(levels, np.quantile(gates.mean(0), (0, 0.5, 1)), rtol=1e-9)


def test_class_dependent_gates_have_eta_squared_one():
    model = randomized(nn.Sequential(attention.create("ese", 4), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    labels = torch.arange(12) % 3
    images = torch.ones(12, 4, 2, 2, dtype=torch.float64) * labels[:, None, None, None]
    result = gate_activations(model, [(images, labels)])
    assert result.layers["0"].eta_squared == pytest.approx(1, abs=1e-9)
    assert result.layers["0"].constant_channels == 0


def test_constant_gates_and_single_classes_have_no_eta_squared(batches):
    start = models.create("wrn-10-0.5", 5, attention="shuffle", attention_options={"groups": 2}).double()
    for layer in gate_activations(start, batches).layers.values():
        assert np.isnan(layer.eta_squared) and layer.constant_channels == layer.channels
        torch.testing.assert_close(layer.quantiles((0.05, 0.5)), torch.full((2,), torch.tensor(1.0).sigmoid()).double())
    result = gate_activations(network("se"), batches, classes=[3])
    assert result.classes == (3,)
    assert all(np.isnan(layer.eta_squared) for layer in result.layers.values())


def test_shuffled_and_folded_networks_agree_by_channel(batches):
    model = network("shuffle")
    folded = attention.fold(model)
    first, second = gate_activations(model, batches).layers, gate_activations(folded, batches).layers
    assert first.keys() == second.keys()
    for name in first:
        assert second[name].module == "OrderedShuffleAttention"
        assert first[name].shuffled and not second[name].shuffled
        torch.testing.assert_close(first[name].by_class.mean, second[name].by_class.mean)
        unshuffled = first[name].before_shuffle
        torch.testing.assert_close(unshuffled.mean[:, first[name].order], first[name].by_class.mean, rtol=0, atol=0)
    no_shuffle = gate_activations(network("shuffle", shuffle=False), batches).layers
    first_layer = "group0.block0.attention"  # up to here both networks compute the same
    torch.testing.assert_close(no_shuffle[first_layer].by_class.mean, first[first_layer].before_shuffle.mean)


def test_output_moments_by_channel(batches):
    for name in ("shuffle", "gc"):
        model = network(name, **({"fusion": "add"} if name == "gc" else {}))
        result = gate_activations(model, batches, quantity="output")
        inputs, labels = inputs_of(model, batches)
        for layer, (_, output) in inputs.items():
            expected = output.mean((2, 3)).numpy()[labels == 3].mean(0)
            np.testing.assert_allclose(result.layers[layer].by_class.row(3), expected, rtol=1e-9)


def test_layers_are_chosen_by_name_parent_or_module(batches):
    model = network("se")
    names = list(gate_activations(model, batches).layers)
    assert names == [f"group{i}.block0.attention" for i in range(3)]
    assert list(gate_activations(model, batches, layers="group1").layers) == names[1:2]
    assert list(gate_activations(model, batches, layers=[names[2], model.group0]).layers) == [names[0], names[2]]
    # CBAM counts as one module, whatever it contains
    assert list(attention_layers(network("cbam"))) == names


@pytest.mark.parametrize("name", ["se", "sge"])
def test_gates_of_identity_starts(name, batches):
    model = randomized(attention.attach(models.create("wrn-10-1", 4), name, start="identity", **OPTIONS.get(name, {})))
    for layer, start in zip(
        gate_activations(model, batches).layers.values(), attention.attached(model).values(), strict=True
    ):
        assert layer.name.endswith("attention.module")
        assert layer.channels == start.module.channels and layer.by_class.overall.min() >= 0


def test_layers_are_in_forward_order(batches):
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.late, self.early, self.idle = (attention.create("eca", 3) for _ in range(3))

        def forward(self, x):
            return self.late(x=self.early(x)).mean((2, 3))

    result = gate_activations(randomized(Backwards()), batches)
    assert list(result.layers) == ["early", "late"]
    with pytest.raises(InputError, match="'idle' did not run"):
        gate_activations(randomized(Backwards()), batches, layers=["idle", "late"])


def test_the_model_is_unchanged(batches):
    model = network("dia").train()
    model.group1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    gate_activations(model, batches)
    with pytest.raises(InputError):
        gate_activations(model, [*batches, (batches[0][0],)])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_compiled_models(batches):
    model = network("se")
    compiled = torch.compile(model, backend="eager")
    expected = gate_activations(model, batches).layers
    result = gate_activations(compiled, batches).layers
    assert result.keys() == expected.keys()
    for name in result:
        torch.testing.assert_close(result[name].by_class.mean, expected[name].by_class.mean)


def test_custom_modules(batches):
    class Custom(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(0.1, 0.9, channels))

        def gate_values(self, x):
            return self.weight[:, None, None] * x.mean((2, 3), keepdim=True).sigmoid()

        def forward(self, x):
            return x * self.gate_values(x)

    class Gateless(Custom):
        gate_values = None

        def forward(self, x):
            return x * self.weight[:, None, None]

    class WrongGate(attention.GatedAttention):
        def logits(self, x):
            return x.mean((2, 3), keepdim=True)

        def forward(self, x):
            return 2 * super().forward(x)

    model = attention.attach(models.create("wrn-10-0.5", 5), Custom)
    assert len(gate_activations(randomized(model), batches).layers) == 3
    gateless = attention.attach(models.create("wrn-10-0.5", 5), Gateless)
    with pytest.raises(InputError, match=r"\(Gateless\) have no gate, or no method gate_values"):
        gate_activations(randomized(gateless), batches)
    assert len(gate_activations(randomized(gateless), batches, quantity="output").layers) == 3
    wrong_gate = attention.attach(models.create("wrn-10-0.5", 5), WrongGate)
    with pytest.raises(InputError, match="output of WrongGate is not its input times"):
        gate_activations(randomized(wrong_gate), batches)


def test_progress_counts_images(batches):
    counts = []
    gate_activations(network("se"), batches, progress=counts.append)
    assert counts == [1, 10, 23]


def test_moments_are_accurate_over_many_batches():
    """100,000 values near 1 that differ in the 7th digit, in batches of 1,000."""
    draw = np.random.default_rng(0)
    values = 1 + 1e-7 * draw.standard_normal((100_000, 2))
    labels = draw.integers(0, 40, 100_000)
    moments = MomentsByClass()
    for start in range(0, 100_000, 1000):
        part = slice(start, start + 1000)
        moments.add(torch.from_numpy(labels[part]), torch.from_numpy(values[part]))
    result = moments.result()
    assert result.mean.shape == (40, 2)
    for k in (0, 17, 39):
        class_values = values[labels == k]
        np.testing.assert_allclose(result.mean[k], class_values.mean(0), rtol=1e-14)
        np.testing.assert_allclose(result.standard_deviation[k], class_values.std(0, ddof=1), rtol=1e-6)


def test_moments_of_few_values():
    moments = MomentsByClass()
    moments.add(torch.tensor([5, 2]), torch.tensor([[1.0], [4.0]]))
    moments.add(torch.tensor([5]), torch.tensor([[3.0]]))
    result = moments.result()
    assert (result.classes, result.images) == ((2, 5), (1, 2))
    np.testing.assert_allclose(result.mean, [[4], [2]])
    np.testing.assert_allclose(result.standard_deviation, [[np.nan], [2**0.5]])
    np.testing.assert_allclose(result.overall, [8 / 3])
    with pytest.raises(InputError, match="class 3 was not counted; counted are 2, 5"):
        result.row(3)


def test_records_of_layers_and_channels(batches):
    names = ("a", "b", "c", "same", "same")
    result = gate_activations(network("shuffle"), batches, class_names=names)
    records = json.loads(json.dumps(result.to_records(), allow_nan=False))
    assert [record["depth"] for record in records] == [1, 2, 3]
    for record, layer in zip(records, result.layers.values(), strict=True):
        assert record["eta_squared"] == pytest.approx(layer.eta_squared, rel=1e-6)
        assert record["median"] == pytest.approx(float(layer.by_class.overall.quantile(0.5)), rel=1e-6)
        assert (record["channels"], record["module"]) == (layer.channels, "ShuffleAttention")
        channels = layer.channel_records([3, 4])
        assert [channel["input_channel"] for channel in channels] == layer.order.tolist()
        for key, values in (
            ("mean", layer.by_class.overall),
            ("eta_squared", layer.by_class.eta_squared),
            ("mean of same (3)", layer.by_class.row(3)),
            ("standard deviation of same (4)", layer.by_class.standard_deviation[2]),
        ):
            expected = [None if np.isnan(value) else pytest.approx(value, rel=1e-6) for value in values.tolist()]
            assert [channel[key] for channel in channels] == expected
    (line, chance) = result.plot().axes[0].get_lines()
    assert list(line.get_ydata()) == [layer.eta_squared for layer in result.layers.values()]
    assert set(chance.get_ydata()) == {result.chance}


def test_lines_average_neighbouring_channels():
    model = nn.Sequential(attention.create("ese", 130), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    batches = [(torch.randn(6, 130, 2, 2).double(), torch.arange(6) % 2)]
    layer = gate_activations(randomized(model), batches, class_names=("cat", "dog")).layers["0"]
    lines = layer.lines([1])
    assert list(lines) == ["all classes", "dog"] and {len(line) for line in lines.values()} == {64}
    assert lines["dog"][0] == pytest.approx(float(layer.by_class.row(1)[:3].mean()))
    assert len(layer.plot([0, 1]).axes) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model, batches: (models.create("wrn-10-0.5", 5).double(), batches, {}), "has no attention module"),
        (lambda model, batches: (network("gc", fusion="add"), batches, {}), r"\(GlobalContext\) have no gate"),
        (lambda model, batches: (model, batches, {"layers": "group9"}), "unknown layer 'group9'"),
        (
            lambda model, batches: (model, batches, {"layers": "conv0"}),
            "layer 'conv0' contains no attention module",
        ),
        (lambda model, batches: (model, batches, {"classes": [1, 2]}), "no image of class 2 among 23"),
        (lambda model, batches: (model, batches, {"quantity": "gates"}), "did you mean 'gate'"),
        (lambda model, batches: (model, [], {}), "0 images"),
        (lambda model, batches: (model, [(batches[0][0], torch.tensor([0.5]))], {}), "labels are float32"),
        (lambda model, batches: (model, [(batches[0][0].byte(), torch.tensor([1]))], {}), "images are torch.uint8"),
    ],
)
def test_wrong_input_fails(batches, change, message):
    model, data, options = change(network("se"), batches)
    with pytest.raises(InputError, match=message):
        gate_activations(model, data, **options)


def test_missing_gate_values_fail():
    x = torch.randn(2, 8, 4, 4)
    with pytest.raises(InputError, match="fusion='add' has no gate"):
        attention.create("gc", 8).gate_values(x)
    with pytest.raises(InputError, match="block 2 of a stage"):
        attention.DIA.for_stage([8, 8])[1].gate_values(x)
