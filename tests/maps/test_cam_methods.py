"""The CAM methods against plain autograd and values by hand."""

import pytest
import torch
from torch import nn

from regard.maps import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM

METHODS = [GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM]


def formula(method, a, g):
    """The map (h, w) from one image's activations and gradients (C, h, w), by loops over channels and pixels."""
    h, w = a.shape[1:]
    places = [(i, j) for i in range(h) for j in range(w)]
    weights = torch.zeros_like(a)
    for c in range(len(a)):
        total = sum(float(a[c, i, j]) for i, j in places)
        if method is GradCAM:
            weights[c] = sum(float(g[c, i, j]) for i, j in places) / len(places)
        elif method is GradCAMPlusPlus:
            for i, j in places:
                gradient = float(g[c, i, j])
                if gradient > 0:
                    weights[c] += gradient**2 / (2 * gradient**2 + total * gradient**3) * gradient
        elif method is XGradCAM:
            weights[c] = sum(float(g[c, i, j] * a[c, i, j]) for i, j in places) / total if total else 0
        else:
            weights[c] = g[c].clamp(min=0) if method is LayerCAM else g[c]
    return (weights * a).sum(0).clamp(min=0)


def activations_and_gradients(model, layer, image, class_):
    """Activations and gradients (C, h, w) of one image, from plain autograd."""
    saved = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _module, _args, output: _save(saved, output))
    logits = model(image[None])
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, class_], saved[0])
    return saved[0][0].detach(), gradient[0]


def _save(saved, output):
    saved.append(output.clone())
    return saved[0].clone()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["layer2.0", "layer2.1", "layer3"])
def test_maps_agree_with_the_formula(model, x, method, layer):
    classes = [4, 0, 1, 1]
    maps = method(model, layer)(x, classes, upsample=False)
    for map_, image, class_ in zip(maps, x, classes, strict=True):
        expected = formula(method, *activations_and_gradients(model, layer, image, class_))
        torch.testing.assert_close(map_, expected, rtol=1e-9, atol=1e-13)
    assert maps.max() > 0


class Linear(nn.Module):
    """A linear layer on the first two channels of images of two pixels."""

    def __init__(self, weights):
        super().__init__()
        self.layer = nn.Identity()
        self.fc = nn.Linear(4, 1, bias=False).double()
        self.fc.weight = nn.Parameter(torch.tensor([weights], dtype=torch.float64))

    def forward(self, x):
        return self.fc(self.layer(x[:, :2]).flatten(1))


# Channel 1: activations 1, 3 and gradients 2, 0. Channel 2: activations 2, 0 and gradients -1, 1.
BY_HAND = {
    GradCAM: [1 * 1 + 0 * 2, 1 * 3 + 0 * 0],
    # alpha g of channel 1: 2 / (2 + 4 * 2) = 0.2 at the first pixel; of channel 2: 1 / (2 + 2 * 1) at the second.
    GradCAMPlusPlus: [0.2 * 1 + 0.25 * 2, 0.2 * 3 + 0.25 * 0],
    HiResCAM: [0, 0],  # 2 - 2, 0 + 0
    LayerCAM: [2 * 1, 0 * 3 + 1 * 0],
    XGradCAM: [0, 2 / 4 * 3],  # weights 2 * 1 / 4 and -1 * 2 / 2; 0.5 - 2 is set to 0
}


@pytest.mark.parametrize("method", METHODS)
def test_known_values(method):
    model = Linear([2, 0, -1, 1])
    image = torch.tensor([[[[1.0, 3]], [[2, 0]], [[0, 0]]]], dtype=torch.float64)
    maps = method(model, "layer")(image, upsample=False)
    torch.testing.assert_close(maps, torch.tensor([[BY_HAND[method]]], dtype=torch.float64))


@pytest.mark.parametrize("method", METHODS)
def test_degenerate_channels_give_no_nan(method):
    """Activations that sum to 0, and one for which the denominator of Grad-CAM++ is 0."""
    image = torch.tensor([[[[1.0, -1]], [[-1, 0]], [[0, 0]]]], dtype=torch.float64)
    maps = method(Linear([1, 1, 2, 2]), "layer")(image, upsample=False)
    assert maps.isfinite().all()


def test_grad_cam_plus_plus_weights_scale_with_tiny_gradients(model, x):
    """Except for the term with the activations, which vanishes with the gradients."""
    cam = GradCAMPlusPlus(model, "layer3")
    a = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    g = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    small, smaller = cam.combine(a, g * 1e-9), cam.combine(a, g * 1e-12)
    torch.testing.assert_close(small, smaller * 1e3, rtol=1e-6, atol=0)


def test_normalized_grad_cam_plus_plus_matches_the_authors_code(model, x):
    """The authors divide alpha by its sum over the pixels with a positive gradient."""
    maps = GradCAMPlusPlus(model, "layer3", normalize_alpha=True)(x, 1, upsample=False)
    assert not torch.allclose(maps, GradCAMPlusPlus(model, "layer3")(x, 1, upsample=False))
    for i in range(len(x)):
        a, g = activations_and_gradients(model, "layer3", x[i], 1)
        weights = torch.zeros(len(a), 1, 1, dtype=a.dtype)
        for c in range(len(a)):
            gradients = g[c][g[c] > 0]
            alphas = gradients**2 / (2 * gradients**2 + a[c].sum() * gradients**3)
            weights[c] = (alphas / alphas.sum() * gradients).sum() if len(gradients) else 0
        torch.testing.assert_close(maps[i], (weights * a).sum(0).clamp(min=0), rtol=1e-9, atol=1e-13)


def test_normalized_grad_cam_plus_plus_by_hand():
    """Channel 1 has one positive gradient, 2, so its alpha is 1; channel 2 likewise, with 1."""
    image = torch.tensor([[[[1.0, 3]], [[2, 0]], [[0, 0]]]], dtype=torch.float64)
    maps = GradCAMPlusPlus(Linear([2, 0, -1, 1]), "layer", normalize_alpha=True)(image, upsample=False)
    torch.testing.assert_close(maps, torch.tensor([[[2.0 * 1 + 1 * 2, 2 * 3 + 1 * 0]]], dtype=torch.float64))
