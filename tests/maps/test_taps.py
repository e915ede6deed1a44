"""Taps return the layers' own tensors, and leave the model unchanged."""

import pytest
import torch
from torch import nn

from regard.errors import InputError
from regard.maps import MapTaps, Taps, activation_map


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_features_are_the_layer_outputs(model, x):
    with Taps(model, ["layer2", "layer1"]) as taps:
        model(x)
        features = taps.features
    first = model.layer1(x)
    assert list(features) == ["layer2", "layer1"]
    assert torch.equal(features["layer1"], first)
    assert torch.equal(features["layer2"], model.layer2(first))
    assert hooks(model) == 0


def test_stages_are_tapped_by_default(model, x):
    with Taps(model) as taps:
        taps.model(x)
        assert list(taps.features) == ["layer1", "layer2", "layer3"]


def test_a_single_name_or_module_is_accepted(model):
    for layer in ("layer2.0", model.layer2[0]):
        with Taps(model, layer) as taps:
            assert taps.layers == ("layer2.0",)


@pytest.mark.parametrize("model", [False], indirect=True)
def test_features_are_not_copied_and_carry_gradients(model, x):
    outputs = []
    model.layer2.register_forward_hook(lambda module, args, output: outputs.append(output))
    with Taps(model, "layer2") as taps:
        model(x)
        assert taps.features["layer2"] is outputs[0]
        taps.features["layer2"].sum().backward()
    assert model.layer1[0].weight.grad is not None


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients(model, x, context):
    with context(), Taps(model, "layer3") as taps:
        model(x)
        assert not taps.features["layer3"].requires_grad


def test_under_autocast_and_channels_last(model, x):
    model = model.float().to(memory_format=torch.channels_last)
    x = x.float().to(memory_format=torch.channels_last)
    with Taps(model, "layer2") as taps, torch.autocast("cpu", torch.bfloat16):
        model(x)
        assert taps.features["layer2"].dtype == torch.bfloat16
        assert taps.features["layer2"].is_contiguous(memory_format=torch.channels_last)


def test_hooks_are_removed_after_an_error(model):
    with pytest.raises(RuntimeError, match="stop"), Taps(model):
        raise RuntimeError("stop")
    assert hooks(model) == 0


def test_taps_can_be_reentered(model, x):
    taps = Taps(model, "layer1")
    with taps:
        with taps:
            model(x)
        assert hooks(model) == 2
        assert taps.features["layer1"].shape == (4, 8, 16, 16)
    assert hooks(model) == 0
    with taps:
        with pytest.raises(InputError, match="no features yet"):
            _ = taps.features
        model(x[:1])
        assert len(taps.features["layer1"]) == 1
        taps.clear()
        with pytest.raises(InputError, match="no features yet"):
            _ = taps.features


def test_two_taps_on_one_model(model, x):
    with Taps(model, "layer1") as first, Taps(model, "layer3") as second:
        model(x)
        assert list(first.features) == ["layer1"] and list(second.features) == ["layer3"]
    assert hooks(model) == 0


def test_in_place_changes_fail(model, x):
    with Taps(model, ["layer1", "layer2.1"]) as taps:
        model(x)
        with pytest.raises(InputError, match="'layer2.1' was changed in place"):
            _ = taps.features


def test_maps_of_features_changed_in_place(model, x):
    """Without a graph, maps are computed before the change; with one, the gradient would be wrong."""
    for reduce in ("mean", "max"):
        with MapTaps(model, "layer2.1", reduce=reduce) as taps:
            model(x)
            with pytest.raises(InputError, match="'layer2.1' was changed in place"):
                _ = taps.maps
            with torch.no_grad():
                model(x)
                (map_,) = taps.maps.values()
                before = model.layer2[1](model.layer2[0](model.layer1(x)))
        torch.testing.assert_close(map_, activation_map(before, reduce=reduce))


def test_layers_that_do_not_run_fail(model, x):
    for layers in (["layer1", "unused"], "unused"):
        with Taps(model, layers) as taps:
            model(x)
            with pytest.raises(InputError, match="'unused' did not run"):
                _ = taps.features


def test_features_come_from_the_last_forward_only(x):
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Identity(), nn.Identity()

        def forward(self, x, run_b):
            return self.b(self.a(x)) if run_b else self.a(x)

    model = Sometimes()
    with Taps(model, ["a", "b"]) as taps:
        model(x, True)
        assert len(taps.features) == 2
        model(x, False)
        with pytest.raises(InputError, match="'b' did not run"):
            _ = taps.features


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("layer4", "unknown layer 'layer4'; near: layer3"),
        ("zzz", "near: layer1, layer2"),
        ("", "unknown layer ''"),
        ([], "layers is empty"),
        (nn.ReLU(), "the ReLU passed as layer is not part of the Small"),
    ],
)
def test_unknown_layers_fail(model, layers, message):
    with pytest.raises(InputError, match=message) as error:
        Taps(model, layers)
    assert "\n" not in str(error.value)


def test_non_feature_outputs_fail(model, x):
    with pytest.raises(InputError, match=r"layer 'fc' gives a tensor of shape \(4, 5\)"), Taps(model, "fc"):
        model(x)
    assert hooks(model) == 0

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    pair = nn.Sequential(Pair())
    with pytest.raises(InputError, match="layer '0' gives a tuple"), Taps(pair, "0"):
        pair(x)


def test_compiled_models_run_uncompiled_inside_and_compiled_after(model, x):
    calls = []

    def backend(graph, _):
        def run(*args):
            calls.append(1)
            return graph(*args)

        return run

    compiled = torch.compile(model, backend=backend)
    expected = compiled(x)
    assert len(calls) == 1
    with Taps(compiled, ["layer1", "layer3"]) as taps:
        assert torch.allclose(compiled(x), expected)
        assert torch.allclose(taps.features["layer1"], model.layer1(x))
    assert len(calls) == 1
    compiled(x)
    assert len(calls) == 2
    assert hooks(model) == 0


def test_compiled_layers_keep_their_names(model, x):
    inner = model.layer2
    model.layer2 = torch.compile(inner, backend="eager")
    for layer, name in [("layer2.0", "layer2.0"), (inner, "layer2"), ("layer2", "layer2")]:
        with Taps(model, layer) as taps:
            model(x)
            assert list(taps.features) == [name]
    with pytest.raises(InputError, match="near: layer2.0"):
        Taps(model, "layer2.00")
