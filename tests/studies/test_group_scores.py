"""Scores of groups by class, against the score of one image after another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from regard.errors import InputError
from regard.maps import group_activation
from regard.maps.channel_groups import group_means
from regard.studies import group_scores


@pytest.fixture
def batches(x):
    more = torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return [(x, torch.tensor([0, 2, -1, 2])), (more, torch.tensor([2, 0, 1]))]


@pytest.mark.parametrize("batch_size", [3, 64])
def test_means_by_class(model, batches, batch_size):
    found = group_scores(model, "layer2", batches, 4, batch_size=batch_size)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert (found.layer, found.groups, found.classes, found.images) == ("layer2", 4, (0, 1, 2), (2, 1, 3))
    for k, label in enumerate(found.classes):
        own = images[labels == label]
        expected = torch.cat([group_activation(model, "layer2", image[None], label, 4) for image in own])
        torch.testing.assert_close(found.scores.mean[k], expected.mean(0))
        if len(own) > 1:
            error = expected.std(0) / np.sqrt(len(own))
            torch.testing.assert_close(found.scores.standard_error[k], error)
        whole = model(own).softmax(1)[:, label].mean()
        torch.testing.assert_close(found.whole.mean[k, 0], whole.detach())


def test_classes_outputs_and_the_predicted_class(model, batches):
    few = group_scores(model, "layer2", batches, 4, classes=[2])
    assert few.classes == (2,)
    torch.testing.assert_close(few.scores.mean[0], group_scores(model, "layer2", batches, 4).scores.row(2))
    turned = group_scores(model, "layer2", batches, 4, classes=[2], outputs=[0, 1, 4])
    images = torch.stack([batches[0][0][1], batches[0][0][3], batches[1][0][0]])
    torch.testing.assert_close(turned.scores.mean[0], group_activation(model, "layer2", images, 4, 4).mean(0))
    predicted = group_scores(model, "layer2", batches, 4, target="predicted", classes=[2])
    torch.testing.assert_close(predicted.scores.mean[0], group_activation(model, "layer2", images, None, 4).mean(0))


def test_flat_groups_are_not_counted_and_cost_nothing(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        model[0].weight[:2] = 0
    ran = []
    model.register_forward_hook(lambda module, args, output: ran.append(len(output)))
    said = []
    found = group_scores(model, "0", [(x, torch.ones(4).long())], 2, progress=said.append)
    assert found.scores.count.tolist() == [[0, 4]] and found.scores.mean[0, 0].isnan()
    assert ran == [4, 4]  # the whole images, and one group of each
    assert said == [8]


def test_progress_of_masked_images(model, x):
    said, parts = [], []
    group_activation(model, "layer2", x, 0, 4, batch_size=6, progress=lambda *part: parts.append(part))
    assert parts == [(6, 16), (12, 16), (16, 16)]
    group_scores(
        model, "layer2", [(x, torch.zeros(4).long()), (x[:2], torch.ones(2).long())], 4, batch_size=10,
        progress=said.append,
    )  # fmt: skip
    assert said == [10, 16, 24]


def test_wrong_input(model, batches, x):
    with pytest.raises(InputError, match="no output of the model stands for class 2"):
        group_scores(model, "layer2", batches, 4, outputs=[0, 1, -1])
    with pytest.raises(InputError, match="unknown target 'labels'"):
        group_scores(model, "layer2", batches, 4, target="labels")
    with pytest.raises(InputError, match="no image of class 7 among 7"):
        group_scores(model, "layer2", batches, 4, classes=[0, 7])
    with pytest.raises(InputError, match="one layer; 2 given"):
        group_scores(model, ["layer2", "layer3"], batches, 4)
    group_means(model, "layer2", x[:1], 4)
    with pytest.raises(InputError, match="5 groups do not divide"):
        group_means(model, "layer2", x[:1], 5)
    with pytest.raises(InputError, match="unknown layer"):
        group_means(model, "layer9", x[:1], 4)
