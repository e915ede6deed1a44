"""Interventions: the changed images, their effect on accuracy, and the choice of backgrounds."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import fisher_exact
from torch import nn

from regard import bias
from regard.bias import interventions
from regard.data import InMemoryDataset
from regard.errors import InputError

SIDE = 8


class Mean(nn.Module):
    """Classifies the mean of the centre (the object), or of all but the centre, as dark or bright."""

    def __init__(self, away=False):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU())
        self.features[0].weight.data = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 3, 1, 1).clone()
        window = torch.zeros(SIDE, SIDE)
        window[2:6, 2:6] = 1
        self.register_buffer("window", 1 - window if away else window)

    def forward(self, x):
        return self.features(x * self.window).mean((2, 3))


def squares(count=40, agree=1.0):
    """Dark (0) or bright (1) 4 x 4 squares; a share `agree` of the backgrounds is as bright as the square."""
    labels = torch.arange(count) % 2
    backgrounds = torch.where(torch.arange(count) < agree * count, labels, 1 - labels)
    regions = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    regions[:, 2:6, 2:6] = True
    images = torch.where(regions, labels[:, None, None], backgrounds[:, None, None])
    images = (60 + 140 * images)[:, None].expand(-1, 3, -1, -1).to(torch.uint8).contiguous()
    mean, std = (130 / 255,) * 3, (0.25,) * 3
    return InMemoryDataset(images, labels, ("dark", "bright"), "squares", "test", mean, std, regions)


def evaluate(model, images, **options):
    return bias.evaluate(model, images, layer="features", interventions=True, **options)


def by_hand(image, region):
    """Only-BG-T of one image (C, H, W), by loops."""
    rows, columns = np.nonzero(region)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    height, width = region.shape
    strips = {  # name -> area, and the pixels
        "above": (top * width, image[:, :top]),
        "below": ((height - bottom) * width, image[:, bottom:]),
        "left": (left * height, image[:, :, :left]),
        "right": ((width - right) * height, image[:, :, right:]),
    }
    tile = max(strips.values(), key=lambda strip: strip[0])[1]
    result = image.copy()
    for y in range(top, bottom):
        for x in range(left, right):
            result[:, y, x] = tile[:, y % tile.shape[1], x % tile.shape[2]]
    return result


def test_variants_match_the_paper_pixel_by_pixel():
    draws = np.random.default_rng(0)
    images, others = torch.from_numpy(draws.normal(size=(2, 30, 3, 9, 13)))
    regions = torch.zeros(2, 30, 9, 13, dtype=torch.bool)
    for mask in regions.flatten(0, 1)[:-1]:
        (top, left), (height, width) = draws.integers(0, (8, 12)), draws.integers(1, 9, 2)
        mask[top : top + height, left : left + width] = torch.from_numpy(draws.random((9, 13)) < 0.7)[
            top : top + height, left : left + width
        ]
    regions[0, 0] = True
    partners = {"mixed_same": (others, regions[1], torch.ones(30, dtype=torch.bool))}
    changed = {name: (pixels, valid) for name, pixels, valid in interventions.variants(images, regions[0], partners)}
    for i in range(30):
        image, region, (top, bottom, left, right) = (
            images[i],
            regions[0, i],
            (values[i] for values in interventions._boxes(regions[0])),
        )
        only_fg, marked = (values[i] for values in changed["only_fg"])
        assert bool(marked) is bool(region.any())
        assert torch.equal(only_fg[:, region], image[:, region]) and not only_fg[:, ~region].any()
        blurred = changed["only_fg_blur"][0][i]
        assert torch.equal(blurred[:, region], image[:, region])
        grey, has_background = (values[i] for values in changed["only_bg_b"])
        assert bool(has_background) is (int((bottom - top) * (right - left)) <= 0.9 * 9 * 13)
        assert not grey[:, top:bottom, left:right].any() or not has_background
        if has_background and marked:
            np.testing.assert_array_equal(changed["only_bg_t"][0][i], by_hand(image.numpy(), region.numpy()))
        mixed, valid = (values[i] for values in changed["mixed_same"])
        if valid:
            tiles = torch.from_numpy(by_hand(others[i].numpy(), regions[1, i].numpy()))
            assert torch.equal(mixed, torch.where(region, image, tiles))
    assert not changed["only_bg_t"][1][0] and changed["mixed_same"][1].sum() > 15


def test_blur_excludes_the_colours_of_the_object():
    images = torch.zeros(1, 3, 32, 32)
    regions = torch.zeros(1, 32, 32, dtype=torch.bool)
    regions[:, 10:20, 10:20] = True
    images[:, :, 10:20, 10:20] = 100
    images[:, :, :, 20:] += 1
    blurred = dict((name, pixels) for name, pixels, _ in interventions.variants(images, regions, {}))["only_fg_blur"]
    outside = blurred[:, :, ~regions[0]]
    assert outside.min() >= -1e-6 and outside.max() <= 1 + 1e-5 and 0.3 < float(blurred[0, 0, 2, 19]) < 0.7


def test_partners_depend_on_class_and_seed():
    labels = np.array([0, 1, 2, -1, 0, 1, 0, 1, 0, 3] * 50)
    labels[-1] = 4  # a class of one image
    same, other = interventions.partners(labels, 0)
    labelled = labels >= 0
    assert (same[~labelled] == -1).all() and (other[~labelled] == -1).all()
    assert same[-1] == -1 and other[-1] >= 0
    paired = labelled & (same >= 0)
    assert (labels[same[paired]] == labels[paired]).all() and (same[paired] != np.flatnonzero(paired)).all()
    assert (labels[other[labelled]] != labels[labelled]).all()
    counts = np.bincount(labels[other[labels == 0]], minlength=5)
    # Other classes are equally likely, whatever their size.
    assert counts[0] == 0 and (counts[1:] > 0.15 * counts.sum()).all()
    assert np.array_equal(other, interventions.partners(labels, 0)[1])
    assert not np.array_equal(other, interventions.partners(labels, 1)[1])
    assert len(set(same[labels == 3])) > 20


def test_interventions_distinguish_object_and_background_models():
    at_object, away = (
        evaluate(Mean(away), squares(), name=name, batch_size=7) for away, name in ((False, "object"), (True, "away"))
    )
    assert at_object.accuracy.value == away.accuracy.value == 1  # the original images do not distinguish them
    accuracies = {
        result.model: {name: rate.value for name, rate in result.overall.interventions.items()}
        for result in (at_object, away)
    }
    assert accuracies["object"] == {
        "only_fg": 1, "only_fg_blur": 1, "only_bg_b": 0.5, "only_bg_t": 1, "mixed_same": 1, "mixed_other": 1
    }  # fmt: skip
    assert accuracies["away"] == {
        "only_fg": 0.5, "only_fg_blur": 1, "only_bg_b": 1, "only_bg_t": 1, "mixed_same": 1, "mixed_other": 0
    }  # fmt: skip
    assert (at_object.position_bias.value, away.position_bias.value) == (0, 1)
    comparisons, effects, notes = bias.compare_all([at_object, away])
    assert not notes
    drop = effects[1]["drop_mixed_other"]
    assert (drop.value, drop.n, drop.significant) == (1, 40, True)
    assert effects[0]["drop_mixed_other"].value == 0 and effects[1]["background_gap"].value == 1
    between = comparisons[0].differences["drop_mixed_other"]
    assert between.value == 1 and between.n == 40
    family = [
        result for group in (comparisons[0].differences, *effects) for result in group.values() if result.p is not None
    ]
    smallest = min(family, key=lambda result: result.p)
    assert smallest.p_adjusted == pytest.approx(len(family) * smallest.p)


def test_lost_predictions_are_compared_by_position_bias():
    rows = dict(evaluate(Mean(), squares(60)).rows)
    draws = np.random.default_rng(0)
    rows["position_bias"] = np.arange(60) < 20
    rows["constant"] = np.zeros(60, bool)
    rows["correct"] = draws.random(60) < 0.8
    rows["mixed_other"] = (draws.random(60) < np.where(rows["position_bias"], 0.2, 0.7)).astype(np.float32)
    rows["mixed_other"][::7] = np.nan
    results = bias.Results("m", "d", "", "gradcam", "", "predicted", 0.5, ("a", "b"), rows)
    counted = rows["correct"] & ~np.isnan(rows["mixed_other"])
    table = [
        [int((rows["mixed_other"][counted & part] == value).sum()) for value in (0, 1)]
        for part in (rows["position_bias"], ~rows["position_bias"])
    ]
    effect = bias.effects(results)["lost_mixed_other"]
    shares = [lost / (lost + retained) for lost, retained in table]
    assert effect.value == pytest.approx(shares[0] - shares[1]) and effect.n == counted.sum()
    assert effect.p == pytest.approx(fisher_exact(table).pvalue)
    assert effect.low < effect.value < effect.high
    record = next(
        candidate
        for candidate in bias.effect_records(results, bias.effects(results))
        if candidate["measure"] == "lost_mixed_other"
    )
    assert (record["first"], record["second"]) == tuple(shares) and record["first_n"] + record["second_n"] == effect.n
    assert json.dumps(record)


def test_interventions_are_saved_in_results_and_shards(tmp_path):
    images = squares(30, agree=0.5)
    results = evaluate(Mean(), images)
    sharded = evaluate(Mean(), images, batch_size=4, shard=9, folder=tmp_path / "shards")
    for name in bias.VARIANTS:
        np.testing.assert_array_equal(sharded.rows[name], results.rows[name])
    loaded = bias.Results.load(results.save(tmp_path / "results.json"))
    assert loaded.to_records() == results.to_records()
    measures = {record["measure"] for record in loaded.to_records() if record["part"] == "class"}
    assert set(bias.VARIANTS) <= measures
    with pytest.raises(InputError, match="another evaluation: interventions differs"):
        evaluate(Mean(), images, seed=1, batch_size=4, shard=9, folder=tmp_path / "shards")


def test_groups_are_summarised_separately():
    results = evaluate(Mean(away=True), squares(40, agree=0.75))
    groups = ["agrees" if i < 30 else "differs" for i in range(40)]
    by_group = results.by_group(groups)
    assert {name: (summary.accuracy.value, summary.images) for name, summary in by_group.items()} == {
        "agrees": (1, 30),
        "differs": (0, 10),
    }
    with pytest.raises(InputError, match="3 groups for 40"):
        results.by_group(groups[:3])


def test_images_without_background_or_partner_are_left_out():
    images = squares(9)
    images.regions[0], images.regions[1] = True, False
    images.labels[2:] = 0
    rows = evaluate(Mean(), images).rows
    valid = {name: ~np.isnan(rows[name]) for name in bias.VARIANTS}
    assert valid["only_fg"].tolist() == [True, False] + 7 * [True]
    assert valid["only_bg_t"].tolist() == [False, False] + 7 * [True]
    assert not valid["mixed_other"].any()  # the only image of class 1 has no region


def test_wrong_input_fails():
    batches = [(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long), torch.ones(2, 8, 8, dtype=torch.bool))]
    with pytest.raises(InputError, match="batches are read once"):
        evaluate(Mean(), batches)
    single_class = squares(4)
    single_class.labels[:] = 0
    with pytest.raises(InputError, match="fewer than two"):
        evaluate(Mean(), single_class)
    with pytest.raises(InputError, match="not outputs"):
        evaluate(Mean(), squares(4), label_outputs=[-1, -1])
    with pytest.raises(InputError, match="seed"):
        evaluate(Mean(), squares(4), seed=-1)
