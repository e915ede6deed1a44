"""The gradient map against plain autograd."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regard.errors import InputError
from regard.maps import ActivationMap, GradientMap, Taps, activation_map


def gradients(model, x, classes, loss="cross-entropy"):
    x = x.clone().requires_grad_()
    logits = model(x)
    labels = torch.as_tensor(classes)
    total = F.cross_entropy(logits, labels, reduction="sum") if loss == "cross-entropy" else None
    total = logits.gather(1, labels[:, None]).sum() if total is None else total
    return torch.autograd.grad(total, x)[0]


@pytest.mark.parametrize("loss", ["cross-entropy", "score"])
@pytest.mark.parametrize(("power", "reduce"), [(1, "mean"), (2, "sum"), (1, "max")])
def test_agrees_with_plain_autograd(model, x, loss, power, reduce):
    method = GradientMap(model, loss=loss, power=power, reduce=reduce)
    maps = method(x, [3, 1, 0, 4])
    expected = activation_map(gradients(model, x, [3, 1, 0, 4], loss), power, reduce)
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-14)
    assert method.layer == "input" and method.layers == ("input",)
    torch.testing.assert_close(method.logits, model(x).detach())


def test_gradients_at_a_layer(model, x):
    maps = GradientMap(model, "layer3")(x, 2, upsample=False)
    head = nn.Sequential(*list(model.children())[3:6])
    with Taps(model, "layer3") as taps, torch.no_grad():
        model(x)
        features = taps.features["layer3"].clone().requires_grad_()
    logits = head[2](F.relu(features - 0.1).mean((2, 3)))
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.full((4,), 2), reduction="sum"), features)
    torch.testing.assert_close(maps, gradient.abs().mean(1), rtol=1e-9, atol=1e-14)


def test_symmetric_maps_average_both_flips(model, x):
    plain, method = GradientMap(model), GradientMap(model, symmetric=True)
    maps = method(x)
    expected = (plain(x, model(x).argmax(1)) + plain(x.flip(3), model(x).argmax(1)).flip(2)) / 2
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-14)
    assert method.logits.shape == (4, 5) and torch.equal(method.classes, model(x).argmax(1))
    torch.testing.assert_close(method(x, 1), method(x.flip(3), 1).flip(2), rtol=1e-9, atol=1e-14)
    at_layer = GradientMap(model, "layer2", symmetric=True)(x, top=2)
    assert at_layer.shape == (4, 2, 16, 16)


def test_saturated_probabilities_still_have_gradients():
    """The probability rounds to 1 and the loss to 0; the gradient of the other class remains."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([5.0, -5])[:, None, None, None]
    x = torch.ones(1, 3, 2, 2)
    assert model(x).softmax(1)[0, 0] == 1
    other = math.exp(-30)  # the logits are 15 and -15; every pixel moves each by a quarter of 5
    expected = torch.full((1, 2, 2), other * 10 / 4)
    torch.testing.assert_close(GradientMap(model)(x), expected, rtol=1e-5, atol=0)


def test_wrong_options_fail(model):
    for options, message in [
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"power": 0}, "power is 0"),
        ({"reduce": "min"}, "unknown reduce 'min'"),
    ]:
        with pytest.raises(InputError, match=message):
            GradientMap(model, **options)
    with pytest.raises(InputError, match="power is 0"):
        ActivationMap(model, power=0)


@pytest.mark.parametrize(("power", "reduce"), [(2, "mean"), (1, "sum"), (3, "max")])
def test_activation_map_as_a_method(model, x, power, reduce):
    """Reads the output of the layer itself, also where an in-place ReLU follows."""
    method = ActivationMap(model, "layer2.1", power=power, reduce=reduce)
    maps = method(x, upsample=False)
    features = model.layer2[1](model.layer2[0](model.layer1(x))).detach()
    torch.testing.assert_close(maps, activation_map(features, power, reduce))
    assert torch.equal(method(x, 3, upsample=False), maps)  # whatever the class
    assert torch.equal(method(x, top=2, upsample=False), maps[:, None].expand(-1, 2, -1, -1))
    assert method.classes.shape == (4, 2)
