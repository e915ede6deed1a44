"""The class score of a channel group against the published procedure, one image and one group at a time."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regard.errors import InputError
from regard.maps import group_activation


def published(model, layer, image, class_, groups):
    """SA-Net's procedure for one image."""
    saved = []
    handle = layer.register_forward_hook(lambda module, args, output: saved.append(output.detach().clone()))
    with torch.no_grad():
        model(image[None])
        handle.remove()
        scores = []
        for group in saved[0].chunk(groups, 1):
            mask = group.mean(1, keepdim=True)
            mask = F.interpolate(mask, image.shape[1:], mode="bilinear", align_corners=False)
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            scores.append(model(image[None] * mask).softmax(1)[0, class_])
    return torch.stack(scores)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_agrees_with_the_published_procedure(model, x, batch_size):
    x, classes = x[:3], [4, 0, 2]
    scores = group_activation(model, "layer2", x, classes, 8, batch_size=batch_size)
    assert scores.shape == (3, 8)
    for i, class_ in enumerate(classes):
        expected = published(model, model.layer2, x[i], class_, 8)
        torch.testing.assert_close(scores[i], expected, rtol=1e-10, atol=0)


def test_default_classes_are_predicted_in_evaluation_mode(model, x):
    expected = group_activation(model, model.layer3, x, model(x).argmax(1), 4)
    assert torch.equal(group_activation(model.train(), "layer3", x, None, 4), expected)
    assert model.training and not expected.requires_grad
    assert not model.layer3._forward_hooks


def test_constant_groups_score_nan(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        model[0].weight[:2] = 0
    scores = group_activation(model, "0", x, 1, 2)
    assert scores[:, 0].isnan().all() and not scores[:, 1].isnan().any()


def test_wrong_input_fails(model, x):
    with pytest.raises(InputError, match="5 groups do not divide 16 channels; expected one of 1, 2, 4, 8, 16"):
        group_activation(model, "layer2", x, 0, 5)
    with pytest.raises(InputError, match="class 7"):
        group_activation(model, "layer2", x, 7, 4)
    with pytest.raises(InputError, match="batch_size is 0"):
        group_activation(model, "layer2", x, 0, 4, batch_size=0)
    with pytest.raises(InputError, match="changed in place"):
        group_activation(model, "layer2.1", x, 0, 4)
