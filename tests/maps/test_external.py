"""The methods of the grad-cam package under the call of the own ones."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from regard import maps
from regard.errors import InputError
from regard.maps import external

package = pytest.importorskip("pytorch_grad_cam")

THEIRS = [name for name in maps.names() if name.startswith("grad-cam:")]
OPTIONS = {"grad-cam:SESS": {"num_scales": 2}}
ANY_SIZE = [name for name in THEIRS if name not in ("grad-cam:FullGrad", "grad-cam:SESS")]


def create(name, model, layer=None, **options):
    return maps.create(name, model, layer, **{**OPTIONS.get(name, {}), **options})


def direct(name, model, layers, x, classes, reshape=None):
    """The package itself, as its documentation uses it."""
    method = getattr(package, name.partition(":")[2])
    options = {**OPTIONS.get(name, {})}
    make = package.utils.model_targets.ClassifierOutputTarget
    targets = [make(class_) for class_ in classes]
    if "FinerCAM" in name:
        logits = model(x)
        order = (logits - logits.gather(1, torch.tensor(classes)[:, None])).abs().argsort(1)[:, 1:4]
        finer = package.utils.model_targets.FinerWeightedTarget
        targets = [finer(class_, others, 1) for class_, others in zip(classes, order.tolist(), strict=True)]
    modules = [] if "FullGrad" in name else [model.get_submodule(layer) for layer in layers]
    found = method(model, modules, reshape_transform=reshape, **options)(x.requires_grad_(), targets)
    return torch.from_numpy(np.asarray(found))


def test_every_class_of_the_package_is_there():
    assert {"grad-cam:GradCAM", "grad-cam:ScoreCAM", "grad-cam:FullGrad", "grad-cam:RefineCAM"} <= {*THEIRS}
    called_cam = {name for name in vars(package) if name.endswith(("CAM", "Grad", "FEM", "SESS", "PlusPlus"))}
    assert {name.partition(":")[2] for name in THEIRS} >= called_cam
    assert not any("Guided" in name or "Factorization" in name or "Activations" in name for name in THEIRS)


@pytest.fixture(autouse=True)
def _every_layer_runs(model):
    """As FullGrad demands."""
    del model.unused


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("model", [False], indirect=True)
def test_agrees_with_the_package_itself(model, x, name):
    x, classes = x[:2].float(), [4, 1]
    model = model.float()
    np.random.seed(0)
    method = create(name, model, None if "FullGrad" in name else "layer2")
    found = method(x, classes)
    assert found.shape == (2, 16, 16) and found.dtype == torch.float32 and found.min() >= 0
    if name not in ("grad-cam:RandomCAM", "grad-cam:ShapleyCAM"):
        np.random.seed(0)
        expected = direct(name, model, ["layer2"], x.clone(), classes)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(method.logits, model(x).detach())
    assert method.classes.tolist() == classes


@pytest.mark.parametrize("name", THEIRS)
def test_the_model_is_left_as_it_was(used, unchanged, x, name, capsys):
    method = create(name, used)
    with unchanged(used):
        assert method(x[:2], top=2).shape == (2, 2, 16, 16)
        assert all(map_.shape == (2, 16, 16) for map_ in method.by_layer(x[:2]).values())
    with unchanged(used), pytest.raises(InputError):
        method(x, 99)
    with unchanged(used), pytest.raises(RuntimeError):
        method(x[:, :2])
    assert capsys.readouterr().err == ""  # no progress bars


@pytest.mark.parametrize("name", ["grad-cam:GradCAM", "grad-cam:AblationCAM", "grad-cam:ScoreCAM"])
def test_an_error_within_the_package_changes_nothing(used, unchanged, x, name, monkeypatch):
    def fails(self, output):
        raise ArithmeticError("half way")

    monkeypatch.setattr(package.utils.model_targets.ClassifierOutputTarget, "__call__", fails)
    with unchanged(used), pytest.raises(ArithmeticError, match="half way"):
        create(name, used)(x)


@pytest.mark.parametrize("name", [name for name in THEIRS if "Random" not in name])
def test_frozen_compiled_in_any_mode_and_precision(model, x, name):
    model, x = model.float(), x[:2].float()
    expected = create(name, model)(x)
    model.requires_grad_(False).train()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = create(name, model)(x + 0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    model.layer3.compile(backend="eager")
    torch.testing.assert_close(create(name, model)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ANY_SIZE)
def test_size_of_the_features(model, x, name):
    assert create(name, model)(x[:2], upsample=False).shape == (2, 4, 4)


@pytest.mark.parametrize("name", [name for name in THEIRS if "FullGrad" not in name and "Shapley" not in name])
def test_several_layers(model, x, name):
    method = create(name, model, ["layer2", "layer3"])
    assert method.layer == "layer2+layer3" and method(x[:1]).shape == (1, 16, 16)
    by_layer = method.by_layer(x[:1], upsample=False)
    if name in ANY_SIZE:
        assert [map_.shape[-1] for map_ in by_layer.values()] == [8, 4]


def test_several_classes_are_the_single_ones(model, x):
    method = create("grad-cam:LayerCAM", model, ["layer2", "layer3"])
    found = method(x, [[0, 4], [1, 1], [2, 3], [4, 0]])
    assert torch.equal(found[:, 1], method(x, [4, 1, 3, 0]))


@pytest.mark.parametrize("layer", ["layer2.0", "layer2.1"])
def test_of_the_layers_own_output_where_what_follows_works_in_place(model, x, layer):
    """Which the package, used directly, sees changed."""
    for name in ("GradCAM", "HiResCAM", "LayerCAM"):
        found = create(f"grad-cam:{name}", model, layer)(x, 1, upsample=False)
        own = maps.create(name, model, layer)(x, 1, upsample=False)
        high = own.amax((1, 2), keepdim=True)
        own = (own - own.amin((1, 2), keepdim=True)) / (high - own.amin((1, 2), keepdim=True) + 1e-7)
        torch.testing.assert_close(found.double(), own, rtol=0, atol=1e-3)


def vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=64, depth=2, embed_dim=24).eval()


def swin():
    torch.manual_seed(0)
    options = {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **options).eval()


@pytest.mark.parametrize("build", [vit, swin])
@pytest.mark.parametrize("name", [name for name in THEIRS if name != "grad-cam:ShapleyCAM"])
def test_transformers(build, unchanged, name):
    network, x = build(), torch.randn(2, 3, 64, 64)
    with unchanged(network):
        found = create(name, network)(x, [1, 2])
    assert found.shape == (2, 64, 64) and found.max() > 0.5
    if build is vit and name not in ("grad-cam:RandomCAM", "grad-cam:AblationCAM"):
        reshape = None if "FullGrad" in name else grid  # reads the first convolution alone
        expected = direct(name, network, ["blocks.1.norm1"], x, [1, 2], reshape)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def grid(tokens):
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))


def test_ablation_of_tokens_is_that_of_the_packages_layer_for_them():
    network, x = vit(), torch.randn(2, 3, 64, 64)
    layer = package.AblationLayerVit()
    cam = package.AblationCAM(network, [network.blocks[1].norm1], grid, ablation_layer=layer)
    targets = [package.utils.model_targets.ClassifierOutputTarget(class_) for class_ in (1, 2)]
    found = create("grad-cam:AblationCAM", network)(x, [1, 2])
    torch.testing.assert_close(found, torch.from_numpy(cam(x, targets)), rtol=1e-4, atol=1e-4)


def test_what_the_package_cannot_do_is_refused(model, x):
    for network in (vit(), swin()):
        with pytest.raises(InputError, match=r"ShapleyCAM .* reads features \(N, C, H, W\) only"):
            create("grad-cam:ShapleyCAM", network)(torch.randn(1, 3, 64, 64))
    with pytest.raises(InputError, match="ShapleyCAM of the grad-cam package reads one layer; 2 given"):
        create("grad-cam:ShapleyCAM", model, ["layer2", "layer3"])
    with pytest.raises(InputError, match=r"FullGrad .* Sequential has none"):
        create("grad-cam:FullGrad", nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Flatten(), nn.Linear(16, 2)))
    model.unused = nn.Conv2d(3, 3, 1)
    with pytest.raises(InputError, match="every layer with a bias to run once; layer 'unused' ran 0 times"):
        create("grad-cam:FullGrad", model)(x)
    with pytest.raises(InputError, match="images are torch.bfloat16; the grad-cam package needs"):
        create("grad-cam:GradCAM", model.bfloat16())(x.bfloat16())


def test_options(model, x):
    smooth = create("grad-cam:GradCAM", model, eigen_smooth=True)(x)
    assert not torch.equal(smooth, create("grad-cam:GradCAM", model)(x))
    assert create("grad-cam:GradCAM", model, aug_smooth=True)(x).shape == (4, 16, 16)
    few = create("grad-cam:AblationCAM", model, batch_size=2, ratio_channels_to_ablate=0.5)
    assert few(x[:1]).shape == (1, 16, 16)
    finer = create("grad-cam:FinerCAM", model, alpha=0.2, comparison_categories=[4])(x)
    assert not torch.equal(finer, create("grad-cam:FinerCAM", model)(x))
    refined = create("grad-cam:RefineCAM", model, ["layer2", "layer3"], base_method="hirescam")
    assert refined(x).shape == (4, 16, 16)
    assert not torch.equal(create("grad-cam:FEM", model, k=0)(x), create("grad-cam:FEM", model, k=1)(x))


def test_finer_cam_compares_with_similar_classes(model, x):
    """With the class itself left out of them, unlike Grad-CAM."""
    found = create("grad-cam:FinerCAM", model)(x, 2)
    assert not torch.allclose(found, create("grad-cam:GradCAM", model)(x, 2), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("grad-cam:ScorCAM", {}, "unknown method of the grad-cam package 'ScorCAM' .did you mean 'ScoreCAM'"),
        ("grad-cam:GuidedBackpropReLUModel", {}, "unknown method of the grad-cam package"),
        ("grad-cam:ScoreCAM", {"batch": 2}, "unknown option of ScoreCAM of the grad-cam package 'batch'"),
        ("grad-cam:SESS", {"base_method": "nocam"}, "unknown method of the grad-cam package 'nocam'"),
        ("grad-cam:FullGrad", {"layer": "layer2"}, "FullGrad reads the biases of all layers; leave the layer out"),
        ("grad-cam:GradCAM", {"layer": "layer9"}, "unknown layer 'layer9'"),
    ],
)
def test_wrong_names_and_options(model, name, options, message):
    with pytest.raises(InputError, match=message):
        maps.create(name, model, **options)


def test_names_in_any_form(model):
    for name in ("grad-cam:ScoreCAM", "GRAD-CAM:scorecam", "scorecam", "ScoreCAM"):
        method = maps.create(name, model)
        assert isinstance(method, external.ExternalMap) and method.name == "ScoreCAM"
    assert isinstance(maps.create("gradcam", model), maps.GradCAM)
    assert maps.create("grad-cam:gradcam", model).name == "GradCAM"
