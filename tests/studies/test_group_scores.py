"""Scores of channel groups by class, against scores computed image by image."""

from __future__ import annotations

import json
from dataclasses import astuple

import pytest
import torch
from torch import nn

from regard import stats
from regard.errors import InputError
from regard.maps import group_activation
from regard.maps.channel_groups import group_means
from regard.studies import group_scores


@pytest.fixture
def batches(x):
    more = torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return [(x, torch.tensor([0, 2, -1, 2])), (more, torch.tensor([2, 0, 1]))]


@pytest.mark.parametrize("batch_size", [3, 64])
def test_scores_are_means_by_class(model, batches, batch_size):
    result = group_scores(model, "layer2", batches, 4, batch_size=batch_size)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert (result.layer, result.groups, result.classes, result.images) == ("layer2", 4, (0, 1, 2), (2, 1, 3))
    for label in result.classes:
        class_images = images[labels == label]
        expected = torch.cat([group_activation(model, "layer2", image[None], label, 4) for image in class_images])
        for column, score in zip(expected.T, result.estimates(label), strict=True):
            assert astuple(score) == pytest.approx(astuple(stats.mean(column.numpy(), 0, 1)), nan_ok=True)
        unmasked = model(class_images).softmax(1)[:, label].detach()
        assert result.whole_image(label).value == pytest.approx(float(unmasked.mean()))


def test_classes_outputs_and_target_choose_the_scores(model, batches):
    single_class = group_scores(model, "layer2", batches, 4, classes=[2])
    assert single_class.classes == (2,)
    all_classes = group_scores(model, "layer2", batches, 4)
    torch.testing.assert_close(single_class.scores, all_classes.scores[all_classes.labels == 2])
    mapped = group_scores(model, "layer2", batches, 4, classes=[2], outputs=[0, 1, 4])
    images = torch.stack([batches[0][0][1], batches[0][0][3], batches[1][0][0]])
    torch.testing.assert_close(mapped.scores, group_activation(model, "layer2", images, 4, 4))
    predicted = group_scores(model, "layer2", batches, 4, target="predicted", classes=[2])
    torch.testing.assert_close(predicted.scores, group_activation(model, "layer2", images, None, 4))


def test_records_of_every_group_and_of_every_class(model, batches):
    result = group_scores(model, "layer2", batches, 4, class_names=("cat)", "[red]x[/red]"))
    records = json.loads(json.dumps(result.group_records(), allow_nan=False))
    assert [record["group"] for record in records] == 3 * [1, 2, 3, 4]
    assert [record["class"] for record in records[::4]] == ["cat)", "[red]x[/red]", "class 2"]
    for score, record in zip(result.estimates(2), records[8:], strict=True):
        assert (record["score"], record["score_low"], record["score_high"]) == (score.value, score.low, score.high)
    assert records[4]["score_low"] is None  # a single image has no interval
    for label, record in zip(result.classes, result.to_records(), strict=True):
        scores = [estimate.value for estimate in result.estimates(label)]
        assert record["mean"] == pytest.approx(sum(scores) / 4) and record["without_score"] == 0
        for key, value in (("highest", max(scores)), ("lowest", min(scores))):
            assert record[key] == value == scores[record[f"{key}_group"] - 1]
    assert "<td" in result._repr_html_() and "[red]x[/red]" in result._repr_html_()
    assert [bar.get_height() for bar in result.plot().axes[0].patches] == [
        estimate.value for estimate in result.estimates(0)
    ]
    bars = result.plot(2).axes[0].patches
    assert [bar.get_height() for bar in bars] == [estimate.value for estimate in result.estimates(2)]


def test_groups_without_a_score_are_not_run(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        model[0].weight[:2] = 0
    batch_sizes = []
    model.register_forward_hook(lambda module, args, output: batch_sizes.append(len(output)))
    progress = []
    result = group_scores(model, "0", [(x, torch.ones(4).long())], 2, progress=progress.append)
    assert result.scores[:, 0].isnan().all() and not result.scores[:, 1].isnan().any()
    assert batch_sizes == [4, 4]  # the unmasked images, and one group of each
    assert progress == [8]
    (record,) = result.to_records()
    assert (record["highest_group"], record["lowest_group"], record["without_score"]) == (2, 2, 1)
    assert result.group_records()[0] == {
        "class": "class 1", "group": 1, "images": 0, "score": None, "score_low": None, "score_high": None
    }  # fmt: skip


def test_progress_counts_masked_images(model, x):
    counts, parts = [], []
    group_activation(model, "layer2", x, 0, 4, batch_size=6, progress=lambda *part: parts.append(part))
    assert parts == [(6, 16), (12, 16), (16, 16)]
    group_scores(
        model, "layer2", [(x, torch.zeros(4).long()), (x[:2], torch.ones(2).long())], 4, batch_size=10,
        progress=counts.append,
    )  # fmt: skip
    assert counts == [10, 16, 24]


def test_wrong_input_fails(model, batches, x):
    with pytest.raises(InputError, match="the model has no output for class 2"):
        group_scores(model, "layer2", batches, 4, outputs=[0, 1, -1])
    with pytest.raises(InputError, match="unknown target 'labels'"):
        group_scores(model, "layer2", batches, 4, target="labels")
    with pytest.raises(InputError, match="no image of class 7 among 7"):
        group_scores(model, "layer2", batches, 4, classes=[0, 7])
    with pytest.raises(InputError, match="one layer, not 2"):
        group_scores(model, ["layer2", "layer3"], batches, 4)
    group_means(model, "layer2", x[:1], 4)
    with pytest.raises(InputError, match="5 groups do not divide"):
        group_means(model, "layer2", x[:1], 5)
    with pytest.raises(InputError, match="unknown layer"):
        group_means(model, "layer9", x[:1], 4)
