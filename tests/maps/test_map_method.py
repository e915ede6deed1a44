"""Behaviour shared by all methods: classes, layers, precision, and the unchanged model."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regard import maps
from regard.errors import InputError
from regard.maps import GradCAM, HiResCAM, MapMethod

NAMES = maps.names()


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_unchanged(used, unchanged, x, name):
    method = maps.create(name, used)
    with unchanged(used):
        method(x, top=2)
        method.by_layer(x)
    with unchanged(used), pytest.raises(RuntimeError):
        method(x[:, :2])
    with unchanged(used), pytest.raises(InputError):
        method(x, 99)


@pytest.mark.parametrize("name", NAMES)
def test_methods_share_shape_dtype_and_attributes(model, x, name):
    method = maps.create(name, model, "layer2")
    assert isinstance(method, MapMethod) and method.layer == "layer2" and method.layers == ("layer2",)
    assert method.logits is None and method.classes is None and method.model is model
    result = method(x)
    assert result.shape == (4, 16, 16) and result.dtype == torch.float64
    assert not result.requires_grad and result.min() >= 0 and result.max() > 0
    assert method(x, upsample=False).shape == (4, 8, 8)
    torch.testing.assert_close(method.logits, model(x).detach())
    assert torch.equal(method.classes, model(x).argmax(1)) and not method.logits.requires_grad
    result = maps.create(name, model.float(), "layer2")(x.float())
    assert result.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_maps_do_not_depend_on_training_or_gradient_mode(model, x, name, context):
    method = maps.create(name, model)
    expected = method(x)
    model.requires_grad_(False).train()
    with context():
        result = method(x + 0)
        assert torch.is_inference_mode_enabled() == (context is torch.inference_mode)
        assert torch.is_grad_enabled() == (context is torch.enable_grad)
    assert torch.equal(result, expected) and not result.is_inference()


@pytest.mark.parametrize("name", NAMES)
def test_several_classes_equal_single_classes(model, x, name):
    method = maps.create(name, model)
    classes = torch.tensor([[0, 4], [1, 1], [2, 3], [4, 0]])
    result = method(x, classes)
    assert result.shape == (4, 2, 16, 16) and torch.equal(method.classes, classes)
    for k in range(2):
        torch.testing.assert_close(result[:, k], method(x, classes[:, k]), rtol=1e-10, atol=1e-15)
    top_maps = method(x, top=3)
    ranks = model(x).argsort(1, descending=True)[:, :3]
    assert torch.equal(method.classes, ranks)
    torch.testing.assert_close(top_maps, method(x, ranks.tolist()), rtol=1e-10, atol=1e-15)
    assert method(x, top=1).shape == (4, 1, 16, 16) and method(x, [[0], [1], [2], [3]]).shape == (4, 1, 16, 16)


def test_several_classes_take_one_forward(model, x):
    runs = []
    model.layer1.register_forward_hook(lambda module, args, output: runs.append(1))
    GradCAM(model, ["layer1", "layer3"])(x, top=5)
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("classes", "top", "message"),
    [
        ([[0, 1], [2, 3]], None, r"int64 \(2, 2\); expected one integer, 4 integers .*, or \(4, k\) integers"),
        (torch.zeros(4, 0, dtype=torch.int64), None, r"int64 \(4, 0\)"),
        ([[0, 5]] * 4, None, "class 0 to 5 of a model with 5 outputs"),
        ([[0, 1], [2]], None, "list that cannot be converted"),
        ("cat", None, "str that cannot be converted"),
        (5, None, "class 5 of a model with 5 outputs; expected 0 to 4"),
        (-1, None, "class -1"),
        ([0, 1, 2, 9], None, "class 0 to 9"),
        ([0, 1], None, r"int64 \(2,\)"),
        (torch.zeros(4), None, "float32"),
        (torch.ones(4, dtype=torch.bool), None, "bool"),
        (True, None, "bool"),
        (None, 6, "top 6 of a model with 5 outputs; expected a whole number from 1 to 5"),
        (None, 0, "top 0"),
        (None, True, "top True"),
        (1, 2, "classes and top are both given"),
    ],
)
def test_wrong_classes_fail(model, x, classes, top, message):
    with pytest.raises(InputError, match=message) as error:
        GradCAM(model)(x, classes, top=top)
    assert "\n" not in str(error.value)


def scaled(map_):
    low, high = map_.amin((1, 2), keepdim=True), map_.amax((1, 2), keepdim=True)
    return ((map_ - low) / (high - low)).nan_to_num()


def enlarged(map_, size):
    return F.interpolate(map_[:, None], size, mode="bilinear", align_corners=False)[:, 0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fuse", ["mean", "max"])
def test_layers_are_fused(model, x, name, fuse):
    layers = ["layer1", model.layer2[1], "layer3"]
    method = maps.create(name, model, layers, fuse=fuse)
    assert method.layers == ("layer1", "layer2.1", "layer3") and method.layer == "layer1+layer2.1+layer3"
    single_maps = [maps.create(name, model, layer)(x, 1, upsample=False) for layer in layers]
    for upsample, size in [(True, (16, 16)), (False, (16, 16))]:
        parts = torch.stack([enlarged(scaled(map_), size) for map_ in single_maps])
        expected = parts.mean(0) if fuse == "mean" else parts.amax(0)
        torch.testing.assert_close(method(x, 1, upsample=upsample), expected, rtol=1e-9, atol=1e-12)
    per_class = method(x, [[1, 0]] * 4)
    torch.testing.assert_close(per_class[:, 0], method(x, 1), rtol=1e-9, atol=1e-12)
    by_layer = method.by_layer(x, 1, upsample=False)
    assert list(by_layer) == list(method.layers)
    for result, expected in zip(by_layer.values(), single_maps, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-14)
    assert method.by_layer(x, top=2)["layer3"].shape == (4, 2, 16, 16)


def test_several_layers_take_one_forward_and_one_backward(model, x):
    """The graph starts at the first layer that runs, whatever the order of the names."""
    requires_grad = {}
    for name in ("layer1", "layer2", "layer3"):
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: requires_grad.setdefault(name, []).append(output.requires_grad)
        )
    GradCAM(model, ["layer3", "layer2"])(x)
    assert requires_grad == {"layer1": [False], "layer2": [False], "layer3": [True]}


def test_constant_maps_count_as_zero_when_fused(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()
    result = GradCAM(model, ["0", "1"])(x, 0)
    torch.testing.assert_close(result, scaled(GradCAM(model, "0")(x, 0)) / 2)


class Branches(nn.Module):
    """Two parallel layers, and one that runs twice."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.twice = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        first = self.twice(self.left(x))
        return (self.twice(first.relu()) * self.right(x)).mean((2, 3))


def test_branches_and_repeated_layers(x):
    model = Branches().double()
    for layers in (["left", "right"], ["right", "left"], ["left", "twice"], ["twice", "right"]):
        result = HiResCAM(model, layers).by_layer(x, 0)
        for layer in layers:
            torch.testing.assert_close(result[layer], HiResCAM(model, layer)(x, 0), rtol=1e-9, atol=1e-14)
    with torch.no_grad():
        last = model.twice(model.twice(model.left(x)).relu())
        right = model.right(x)
    expected = (last[:, 0] * right[:, 0] / 256).clamp(min=0)
    torch.testing.assert_close(HiResCAM(model, "twice")(x, 0), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_and_channels_last(model, x, name):
    expected = maps.create(name, model, "layer3")(x, 1)
    model = model.float().to(memory_format=torch.channels_last)
    x = x.float().to(memory_format=torch.channels_last)
    result = maps.create(name, model, "layer3")(x, 1)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-4 * float(expected.max()))
    with torch.autocast("cpu", torch.bfloat16):
        method = maps.create(name, model, "layer3")
        result = method(x, 1)
        assert torch.is_autocast_cache_enabled()
    assert result.dtype == torch.float32 and method.logits.dtype == torch.bfloat16
    cosine = F.cosine_similarity(result.double().flatten(), expected.flatten(), 0)
    assert cosine > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_models(model, x, name):
    expected = maps.create(name, model, "layer3")(x, 1)
    result = maps.create(name, model.bfloat16(), "layer3")(x.bfloat16(), 1)
    assert result.dtype == torch.float32
    assert F.cosine_similarity(result.double().flatten(), expected.flatten(), 0) > 0.95


def test_training_works_in_the_same_autocast_context(model, x):
    """The next step does not reuse the weights that autocast cached, without a graph, for the maps."""
    model = model.float()
    with torch.autocast("cpu", torch.bfloat16):
        GradCAM(model, "layer3")(x.float())
        loss = model(x.float()).square().sum()
    loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "unused" not in name)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_models(model, x, name):
    expected = maps.create(name, model, ["layer2", "layer3"])(x)
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(maps.create(name, compiled, ["layer2", "layer3"])(x), expected)
    model.layer3.compile(backend="eager")
    assert torch.equal(maps.create(name, model, ["layer2", "layer3"])(x), expected)


def test_empty_batches(model, x):
    for name in NAMES:
        assert maps.create(name, model)(x[:0]).shape == (0, 16, 16)


def test_inference_mode_models_support_activation_maps_only(x):
    with torch.inference_mode():
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 2)).double()
    assert maps.create("activation", model, "0")(x).max() > 0
    for name in ("gradcam", "gradient"):
        with pytest.raises(InputError, match="created under inference_mode"):
            maps.create(name, model, "0")(x)


def test_wrong_options_fail(model):
    with pytest.raises(InputError, match="unknown fuse 'sum'"):
        GradCAM(model, fuse="sum")
    with pytest.raises(InputError, match="reshape is a int"):
        GradCAM(model, reshape=3)
    with pytest.raises(InputError, match="layers is empty"):
        GradCAM(model, [])
