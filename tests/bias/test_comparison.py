"""The comparison of two reports: matched images, sentences that follow the intervals, and what is left out."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from regard.bias import Report, compare, measure
from regard.bias.intervals import holm, paired_bootstrap
from regard.errors import InputError

N = 60
MEANS = ["spill", "miss", "iou", "mean_iou", "energy_inside", "auc", "rank_accuracy"]


def rows(seed=0, blur=0.6, n=N):
    """Rows of maps that look at regions, the better the less they are blurred."""
    random = np.random.default_rng(0)
    regions = np.zeros((n, 10, 10), bool)
    for i in range(n):
        regions[i, i % 4 : i % 4 + 5, i % 3 : i % 3 + 4] = True
    labels = random.integers(0, 3, n)
    own = np.random.default_rng(seed)
    maps = regions * (1 - blur) + blur * own.random((n, 10, 10))
    predicted = np.where(own.random(n) < 0.7, labels, (labels + 1) % 3)
    return {
        "label": labels,
        "predicted": predicted,
        "explained": predicted,
        "probability": own.random(n),
        "correct": predicted == labels,
        **{name: values.numpy() for name, values in measure(torch.from_numpy(maps), torch.from_numpy(regions)).items()},
    }


def report(name="first", columns=None, **changes):
    settings = {"dataset": "spots", "split": "test", "method": "gradcam", "layer": "layer4", "target": "predicted"}
    settings |= {"threshold": 0.5, "classes": ("ant", "bee", "cat")}
    return Report(model=name, rows=rows() if columns is None else columns, **{**settings, **changes})


def taken(columns, places):
    return {name: values[places] for name, values in columns.items()}


def same(ours, expected):
    """Whether two comparisons say the same in numbers."""
    for one, other in zip(ours, expected, strict=True):
        assert (one.difference, one.low, one.high, one.p, one.images) == (
            other.difference,
            other.low,
            other.high,
            other.p,
            other.images,
        )


def test_against_itself():
    comparison = compare(report(), report())
    assert list(comparison.means) == MEANS and len(list(comparison)) == 11
    for difference in comparison:
        assert difference.difference == 0 and difference.p == difference.p_holm == 1 and not difference.resolved
        assert "the first first and the second first differ by 0.0" in difference.sentence
        assert "not resolved" in difference.sentence
    assert comparison.notes == ("Where nothing differs, chance alone resolves 0.55 of 11 differences; here none is.",)
    assert comparison.accuracy.images == N


def test_numbers_are_those_of_the_intervals():
    sharp, blurred = rows(1, 0.5), rows(2, 0.8)
    comparison = compare(report("sharp", sharp), report("blurred", blurred))
    for name, found in comparison.means.items():
        alone = paired_bootstrap(np.float32(sharp[name]), np.float32(blurred[name]))
        assert found.difference == pytest.approx(np.mean(sharp[name]) - np.mean(blurred[name]), abs=1e-6), name
        assert (found.low, found.high, found.p) == pytest.approx((alone.low, alone.high, alone.p), abs=1e-6), name
        assert found.resolved == (ttest_rel(sharp[name], blurred[name]).pvalue < 0.05), name
    assert [one.p_holm for one in comparison] == holm([one.p for one in comparison])
    assert comparison.pointing.difference == sharp["pointing"].mean() - blurred["pointing"].mean()


def test_sentences_follow_the_intervals():
    sharp, blurred = report("sharp", rows(1, 0.5)), report("blurred", rows(2, 0.8))
    comparison = compare(sharp, blurred)
    iou = comparison.means["mean_iou"]
    assert iou.sentence == (
        f"mean IoU: sharp higher than blurred by {iou.difference:.3f} (95% interval {iou.low:+.3f} to {iou.high:+.3f}, "
        "bootstrap p < 0.001, 60 images)"
    )
    assert comparison.means["spill"].sentence.startswith("spill: sharp lower than blurred by 0.")
    turned = compare(blurred, sharp)
    for one, other in zip(comparison, turned, strict=True):
        assert one.difference == pytest.approx(-other.difference)
        assert one.resolved == other.resolved
        for word, opposite in (("higher", "lower"), ("lower", "higher")):
            assert (word in one.sentence) == (opposite in other.sentence)
        assert ("not resolved" in one.sentence) == (not one.resolved)
    resolved = sum(one.resolved for one in comparison)
    left = sum(one.resolved and one.p_holm < 0.05 for one in comparison)
    assert 0 < left <= resolved < 11
    assert comparison.notes[-1].endswith(f"of 11 differences; here {resolved} are, {left} after Holm's correction.")
    assert str(comparison).splitlines() == [one.sentence for one in comparison] + list(comparison.notes)


def test_without_accuracy():
    for scored in [(False, True), (True, False), (False, False)]:
        comparison = compare(report(scored=scored[0]), report("second", rows(1), scored=scored[1]))
        assert comparison.accuracy is None and len(list(comparison)) == 10
        assert str(comparison).startswith("position bias:") and "10 differences" in comparison.notes[-1]
        assert json.loads(json.dumps(comparison.to_dict()))["accuracy"] is None


def test_only_images_with_a_focus_and_a_region_in_both():
    first, second = rows(1), rows(2)
    first["flat"][:3], second["flat"][2:7] = True, True
    second["auc"][10:14] = math.nan
    comparison = compare(report(columns=first), report("second", second))
    assert comparison.accuracy.images == N
    assert {one.images for one in (comparison.position_bias, comparison.range_bias, comparison.pointing)} == {N - 7}
    assert (comparison.means["auc"].images, comparison.means["auc"].left_out) == (N - 11, 4)
    assert (comparison.means["spill"].images, comparison.means["spill"].left_out) == (N - 7, 0)


def test_a_measure_without_numbers_is_left_out():
    first, second = rows(1), rows(2)
    first["auc"][:], second["iou"][1:] = math.nan, math.nan
    comparison = compare(report(columns=first), report("second", second))
    assert list(comparison.means) == [name for name in MEANS if name not in ("auc", "iou")]
    assert json.dumps(comparison.to_dict(), allow_nan=False)


def test_json():
    values = json.loads(json.dumps(compare(report(), report("second", rows(1))).to_dict(), allow_nan=False))
    assert set(values) == {"accuracy", "position_bias", "range_bias", "pointing", "means", "notes"}
    assert set(values["means"]["spill"]) >= {"difference", "low", "high", "p", "p_holm", "images", "sentence"}


# Which images.

KEYS = tuple(f"images/{i}.jpg" for i in range(N))


def test_images_in_another_order():
    first, second = rows(1), rows(2)
    order = np.random.default_rng(0).permutation(N)
    expected = compare(report(columns=first, keys=KEYS), report("second", second, keys=KEYS))
    moved = report("second", taken(second, order), keys=tuple(KEYS[i] for i in order))
    found = compare(report(columns=first, keys=KEYS), moved)
    same(found, expected)
    assert found.notes == expected.notes


def test_images_that_only_one_has():
    first, second = rows(1), rows(2)
    a = report(columns=taken(first, slice(0, 50)), keys=KEYS[:50])
    b = report("second", taken(second, slice(10, None)), keys=KEYS[10:])
    found = compare(a, b)
    both = slice(10, 50)
    same(
        found,
        compare(
            report(columns=taken(first, both), keys=KEYS[both]),
            report("second", taken(second, both), keys=KEYS[both]),
        ),
    )
    assert found.notes[0] == "On the 40 images of both reports; left out: 10 of first alone, 10 of second alone."
    assert found.accuracy.images == 40


def test_reports_that_cannot_be_compared():
    other = tuple(f"others/{i}.jpg" for i in range(N))
    with pytest.raises(InputError, match="no image in common .*'images/0.jpg'.*'others/0.jpg'"):
        compare(report(keys=KEYS), report(keys=other))
    with pytest.raises(InputError, match="1 images of the second first have the name of another"):
        compare(report(keys=KEYS), report(keys=(*KEYS[:-1], KEYS[0])))
    labels = rows()
    labels["label"] = (labels["label"] + 1) % 3
    with pytest.raises(InputError, match="differ in the label of 60 of 60 images"):
        compare(report(), report(columns=labels))
    flat = rows()
    flat["flat"][:] = True
    with pytest.raises(InputError, match="nothing to compare"):
        compare(report(), report(columns=flat))


def test_regions_of_another_size():
    resized = rows()
    resized["region_area"][5:9] *= 1.01
    found = compare(report(), report("second", resized))
    assert found.notes[0].startswith("The region takes another share of 4 of 60 images")
    with pytest.raises(InputError, match="of spots test and dots test and differ in the region of 4 of 60 images"):
        compare(report(), report("second", resized, dataset="dots"))
    assert compare(report(), report("second", dataset="dots")).notes[0] == "The dataset differs: spots, dots."


def test_settings_that_differ_are_noted():
    changes = {"method": "layercam", "layer": "layer3", "target": "label", "threshold": 0.7}
    notes = compare(report(), report("second", **changes)).notes
    assert notes[:-1] == (
        "The method differs: gradcam, layercam.",
        "The layer differs: layer4, layer3.",
        "The target differs: predicted, label.",
        "The threshold differs: 0.5, 0.7.",
    )
