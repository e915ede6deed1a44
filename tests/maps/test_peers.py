"""Agreement with grad-cam and torchcam, on common architectures with random weights, in float64."""

from functools import cache

import pytest
import timm
import torch
import torchvision
from torch import nn

from regard import maps
from regard.maps import Taps

LAYERS = {
    "resnet50": "layer4",
    "efficientnet_b0": "bn2",
    "convnext_atto": "stages.3",
    "densenet121": "features.denseblock4",
    "vit_tiny_patch16_224": "blocks.11.norm1",
}
METHODS = ["GradCAM", "GradCAMPlusPlus", "HiResCAM", "LayerCAM", "XGradCAM"]
CLASSES = [3, 5]


@cache
def network(name):
    torch.manual_seed(0)
    if name in ("resnet50", "densenet121"):
        model = torchvision.models.get_model(name, num_classes=7)
    else:
        model = timm.create_model(name, num_classes=7, **({"img_size": 64} if "vit" in name else {}))
    model.double().train().requires_grad_(False)  # the packages are faster without gradients of weights
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1
        # Running statistics that match the input; otherwise activations are tiny.
        model(torch.randn(4, 3, 64, 64, dtype=torch.float64))
        # Large gradients, so that the constants that the packages add to denominators are negligible.
        head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        head.weight.normal_(0, 1e6)
    return model.eval(), torch.randn(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)


def grid(tokens):
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))


def scaled_like_grad_cam(map_):
    map_ = map_ - map_.amin((1, 2), keepdim=True)
    return map_ / (1e-7 + map_.amax((1, 2), keepdim=True))


def grad_cam_maps(method, model, layers, x, classes, size=None, reshape=None):
    package = pytest.importorskip("pytorch_grad_cam")
    targets = [package.utils.model_targets.ClassifierOutputTarget(class_) for class_ in classes]
    with getattr(package, method)(model, layers, reshape_transform=reshape) as cam:
        if size is not None:
            cam.get_target_width_height = lambda _: size[::-1]
        result = cam(x, targets)
    return torch.from_numpy(result).double()


def tolerance(method, name):
    # XGrad-CAM divides by sums of activations, to which the packages add 1e-7 and 1e-8; without a ReLU, some sums are
    # nearly zero.
    return 3e-4 if method == "XGradCAM" and name != "resnet50" else 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_the_grad_cam_package(name, method):
    model, x = network(name)
    layer, reshape = model.get_submodule(LAYERS[name]), grid if "vit" in name else None
    cam = getattr(maps, method)(model)
    assert cam.layer == LAYERS[name]
    result = cam(x, CLASSES, upsample=False)
    expected = grad_cam_maps(method, model, [layer], x, CLASSES, result.shape[-2:], reshape)
    scaled = scaled_like_grad_cam(scaled_like_grad_cam(result))  # the package scales before and after it fuses layers
    assert result.max() > 0
    torch.testing.assert_close(scaled, expected, rtol=0, atol=tolerance(method, name))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", ["GradCAM", "LayerCAM", "XGradCAM"])
def test_agrees_with_torchcam(name, method):
    pytest.importorskip("torchcam", minversion="0.5")  # which needs numpy 2
    peer = pytest.importorskip("torchcam.methods")
    model, x = network(name)
    result = getattr(maps, method)(model)(x, CLASSES, upsample=False)
    layer, reshape = model.get_submodule(LAYERS[name]), grid if "vit" in name else None
    with getattr(peer, method)(model, layer, reshape_transform=reshape) as cam:
        (expected,) = cam(CLASSES, model(x), normalized=False)
    torch.testing.assert_close(
        result, expected.clamp(min=0), rtol=0, atol=tolerance(method, name) * float(result.max())
    )


def test_torchcam_omits_the_grad_cam_plus_plus_denominator():
    """Therefore it is not compared above; if this test fails, add it there."""
    pytest.importorskip("torchcam", minversion="0.5")  # which needs numpy 2
    peer = pytest.importorskip("torchcam.methods")
    model, x = network("resnet50")
    with peer.GradCAMpp(model, model.layer3) as cam:
        (actual,) = cam(CLASSES, model(x), normalized=False)
    with Taps(model, "layer3") as taps:
        logits = model(x)
        (a,) = taps.features.values()
        (g,) = torch.autograd.grad(logits[0, CLASSES[0]] + logits[1, CLASSES[1]], a)
    weights = (g.square() * g.clamp(min=0)).sum((2, 3))
    undivided = torch.einsum("nc,nchw->nhw", weights, a).detach()
    torch.testing.assert_close(actual.clamp(min=0), undivided.clamp(min=0), rtol=1e-9, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["GradCAM", "LayerCAM"])
def test_fused_layers_agree_with_the_grad_cam_package(method):
    """The package scales the fused map once more, and enlarges maps in float32."""
    model, x = network("resnet50")
    layers = ["layer3", "layer4"]
    result = getattr(maps, method)(model, layers)(x, CLASSES)
    expected = grad_cam_maps(method, model, [model.layer3, model.layer4], x, CLASSES)
    torch.testing.assert_close(scaled_like_grad_cam(result), expected, rtol=0, atol=1e-5)
