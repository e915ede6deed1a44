"""Grad-CAM against plain autograd."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from regard.errors import DataWarning, InputError
from regard.maps import GradCAM


def plain_gradcam(model, layer, image, class_):
    """Grad-CAM of one image (H, W) as in the paper, with the graph of the full network."""
    saved = {}
    handle = layer.register_forward_hook(lambda module, args, output: saved.setdefault("a", output.clone()))
    replace = layer.register_forward_hook(lambda module, args, output: saved["a"].clone())
    logits = model(image[None])
    handle.remove()
    replace.remove()
    class_ = int(logits.argmax()) if class_ is None else class_
    (gradient,) = torch.autograd.grad(logits[0, class_], saved["a"])
    cam = F.relu(sum(g.mean() * a for g, a in zip(gradient[0], saved["a"][0], strict=True))).detach()
    return F.interpolate(cam[None, None], image.shape[1:], mode="bilinear", align_corners=False)[0, 0]


@pytest.mark.parametrize("layer", ["layer1", "layer2.0", "layer2.1", "layer3"])
@pytest.mark.parametrize("classes", [None, 2, [4, 0, 1, 1]])
def test_agrees_with_plain_autograd(model, x, layer, classes):
    maps = GradCAM(model, layer)(x, classes)
    chosen = classes if isinstance(classes, list) else [classes] * len(x)
    for i, class_ in enumerate(chosen):
        expected = plain_gradcam(model, model.get_submodule(layer), x[i], class_)
        torch.testing.assert_close(maps[i], expected, rtol=1e-10, atol=1e-13)
    assert maps.shape == (4, 16, 16) and maps.dtype == torch.float64 and not maps.requires_grad
    assert maps.max() > 0


def test_agrees_on_resnet18():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=7).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    maps = GradCAM(model)(x)
    for i in range(2):
        torch.testing.assert_close(maps[i], plain_gradcam(model, model.layer4, x[i], None), rtol=1e-9, atol=1e-13)


def test_batches_equal_single_images(model, x):
    cam = GradCAM(model)
    batch = cam(x)
    logits = cam.logits
    for i in range(4):
        torch.testing.assert_close(batch[i : i + 1], cam(x[i : i + 1]), rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(logits[i : i + 1], cam.logits, rtol=1e-10, atol=1e-14)


def test_maps_without_upsampling_have_the_feature_size(model, x):
    cam = GradCAM(model, "layer3")
    coarse = cam(x, upsample=False)
    assert coarse.shape == (4, 4, 4)
    enlarged = F.interpolate(coarse[:, None], (16, 16), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(cam(x), enlarged)


def test_one_pixel_maps_are_constant_with_a_warning(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 16), nn.Flatten(), nn.Linear(4, 3)).double()
    with pytest.warns(DataWarning, match="have a single pixel"):
        maps = GradCAM(model, "0")(x)
    assert (maps == maps[:, :1, :1]).all() and maps.max() > 0


def test_no_graph_is_built_below_the_layer(model, x):
    requires_grad = {}
    for name in ("layer1", "layer2", "layer3"):
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: requires_grad.__setitem__(name, output.requires_grad)
        )
    GradCAM(model, "layer2")(x.requires_grad_())
    assert requires_grad == {"layer1": False, "layer2": False, "layer3": True}


class Silent(nn.Module):
    """A network with an unused branch, and with a layer under no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.side, self.inner = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        self.side(x)
        with torch.no_grad():
            x_inner = self.inner(x)
        return self.main(x).mean((2, 3)) + x_inner.mean((2, 3))


@pytest.mark.parametrize(
    ("layer", "message"),
    [("side", "do not depend on layer 'side'|no gradient reaches layer 'side'"), ("inner", "no gradient reaches")],
)
def test_layers_without_effect_on_the_scores_fail(x, layer, message):
    with pytest.raises(InputError, match=message):
        GradCAM(Silent().double(), layer)(x)


def test_wrong_images_fail(model, x):
    for images, message in [(x[0], r"torch.float64 \(3, 16, 16\)"), (x.byte(), "uint8"), ([x], "list")]:
        with pytest.raises(InputError, match=message):
            GradCAM(model)(images)


def test_wrong_layers_and_models_fail(model, x):
    with pytest.raises(InputError, match="near: layer3"):
        GradCAM(model, "layer4")
    with pytest.raises(InputError, match="'unused' did not run"):
        GradCAM(model, "unused")(x)
    with pytest.raises(InputError, match=r"layer 'fc' gives a tensor of shape \(4, 5\)"):
        GradCAM(model, "fc")(x)
    with pytest.raises(InputError, match="the model returns a tensor of shape"):
        GradCAM(nn.Sequential(nn.Conv2d(3, 2, 1)).double(), "0")(x)
