"""Comparisons of results: matched images, jointly corrected tests, and left-out images and measures."""

import json
import math

import numpy as np
import pytest
import torch

from regard.bias import Results, compare, compare_all, measure
from regard.errors import InputError
from regard.stats import holm, paired_means, paired_proportions

N = 60
RATES = ["accuracy", "position_bias", "range_bias", "pointing"]
MEANS = ["spill", "miss", "iou", "mean_iou", "energy_inside", "auc", "rank_accuracy"]


def rows(seed=0, blur=0.6, n=N):
    """Rows of maps that highlight the regions, the better the less they are blurred."""
    random = np.random.default_rng(0)
    regions = np.zeros((n, 10, 10), bool)
    for i in range(n):
        regions[i, i % 4 : i % 4 + 5, i % 3 : i % 3 + 4] = True
    labels = random.integers(0, 3, n)
    draws = np.random.default_rng(seed)
    maps = regions * (1 - blur) + blur * draws.random((n, 10, 10))
    predicted = np.where(draws.random(n) < 0.7, labels, (labels + 1) % 3)
    return {
        "label": labels,
        "predicted": predicted,
        "explained": predicted,
        "probability": draws.random(n),
        "correct": predicted == labels,
        **{name: values.numpy() for name, values in measure(torch.from_numpy(maps), torch.from_numpy(regions)).items()},
    }


def results(name="first", columns=None, **changes):
    settings = {"dataset": "spots", "split": "test", "method": "gradcam", "layer": "layer4", "target": "predicted"}
    settings |= {"threshold": 0.5, "classes": ("ant", "bee", "cat")}
    return Results(model=name, rows=rows() if columns is None else columns, **{**settings, **changes})


def select(columns, indices):
    return {name: values[indices] for name, values in columns.items()}


def test_results_do_not_differ_from_themselves():
    comparison = compare(results(), results())
    assert list(comparison.differences) == RATES + MEANS and comparison.notes == ()
    for difference in comparison.differences.values():
        assert difference.value == 0 and difference.p == difference.p_adjusted == 1 and not difference.significant
    assert comparison.differences["accuracy"].n == N


def test_differences_match_the_paired_tests():
    sharp, blurred = rows(1, 0.5), rows(2, 0.8)
    comparison = compare(results("sharp", sharp), results("blurred", blurred))
    columns = ["correct", *RATES[1:]]
    expected = {n: paired_proportions(sharp[c], blurred[c]) for n, c in zip(RATES, columns, strict=True)}
    expected |= {name: paired_means(np.float32(sharp[name]), np.float32(blurred[name])) for name in MEANS}
    assert comparison.differences == holm(expected)
    swapped = compare(results("blurred", blurred), results("sharp", sharp)).differences
    for name, difference in comparison.differences.items():
        assert swapped[name].value == pytest.approx(-difference.value)
        assert swapped[name].significant == difference.significant == (difference.p_adjusted < 0.05)
    assert any(difference.significant for difference in swapped.values())


def test_all_comparisons_are_corrected_together():
    all_results = [results("a", rows(1, 0.55)), results("b", rows(2)), results("c", rows(3)), results("d", keys=KEYS)]
    comparisons, effects, notes = compare_all(all_results)
    assert comparisons[2] is None and len(notes) == 1 and "d is not compared with a" in notes[0]
    actual = {(i, name): difference for i in (0, 1) for name, difference in comparisons[i].differences.items()}
    uncorrected = {
        (i, name): difference
        for i in (0, 1)
        for name, difference in compare(all_results[i + 1], all_results[0]).differences.items()
    }
    assert actual == holm(uncorrected) != uncorrected
    assert compare_all(all_results[:1]) == ([], [{}], []) and not any(effects)


def test_accuracy_is_not_compared_without_scores():
    for scored in [(False, True), (True, False), (False, False)]:
        comparison = compare(results(scored=scored[0]), results("second", rows(1), scored=scored[1]))
        assert list(comparison.differences) == RATES[1:] + MEANS


def test_only_images_with_focus_and_region_in_both_are_compared():
    first, second = rows(1), rows(2)
    first["constant"][:3], second["constant"][2:7] = True, True
    second["auc"][10:14] = math.nan
    comparison = compare(results(columns=first), results("second", second))
    assert comparison.differences["accuracy"].n == N
    assert {comparison.differences[name].n for name in RATES[1:]} == {N - 7}
    assert comparison.differences["auc"].n == N - 11 and comparison.differences["spill"].n == N - 7


def test_measures_without_values_are_left_out():
    first, second = rows(1), rows(2)
    first["auc"][:], second["iou"][1:] = math.nan, math.nan
    comparison = compare(results(columns=first), results("second", second))
    assert list(comparison.differences) == RATES + [name for name in MEANS if name not in ("auc", "iou")]


def test_records_are_json_with_every_measure():
    records = json.loads(json.dumps(compare(results(), results("second", rows(1))).to_records(), allow_nan=False))
    assert [record["measure"] for record in records] == RATES + MEANS
    keys = ["model", "reference", "measure", "value", "low", "high", "p", "p_adjusted", "n", "significant"]
    assert all(list(record) == keys for record in records)


# Matching of images.

KEYS = tuple(f"images/{i}.jpg" for i in range(N))


def test_images_are_matched_in_any_order():
    first, second = rows(1), rows(2)
    order = np.random.default_rng(0).permutation(N)
    expected = compare(results(columns=first, keys=KEYS), results("second", second, keys=KEYS))
    reordered = results("second", select(second, order), keys=tuple(KEYS[i] for i in order))
    actual = compare(results(columns=first, keys=KEYS), reordered)
    assert actual == expected


def test_images_in_only_one_result_are_left_out():
    first, second = rows(1), rows(2)
    a = results(columns=select(first, slice(0, 50)), keys=KEYS[:50])
    b = results("second", select(second, slice(10, None)), keys=KEYS[10:])
    actual = compare(a, b)
    common = slice(10, 50)
    expected = compare(
        results(columns=select(first, common), keys=KEYS[common]),
        results("second", select(second, common), keys=KEYS[common]),
    )
    assert actual.differences == expected.differences
    assert len(actual.notes) == 1 and "40 images are compared; 10 are only in the first" in actual.notes[0]


def test_incomparable_results_fail():
    other = tuple(f"others/{i}.jpg" for i in range(N))
    with pytest.raises(InputError, match="no image in common .*'images/0.jpg'.*'others/0.jpg'"):
        compare(results(keys=KEYS), results(keys=other))
    with pytest.raises(InputError, match="share a name"):
        compare(results(keys=KEYS), results(keys=(*KEYS[:-1], KEYS[0])))
    labels = rows()
    labels["label"] = (labels["label"] + 1) % 3
    with pytest.raises(InputError, match="differ in the label of 60 of 60 images"):
        compare(results(), results(columns=labels))
    flat = rows()
    flat["constant"][:] = True
    with pytest.raises(InputError, match="nothing to compare"):
        compare(results(), results(columns=flat))


def test_different_region_sizes_are_noted():
    resized = rows()
    resized["region_area"][5:9] *= 1.01
    actual = compare(results(), results("second", resized))
    assert actual.notes[0].startswith("Of 60 images, 4 have regions")
    with pytest.raises(InputError, match="of spots test and dots test and differ in the region of 4 of 60 images"):
        compare(results(), results("second", resized, dataset="dots"))
    assert compare(results(), results("second", dataset="dots")).notes[0] == "The dataset differs: spots, dots."


def test_different_options_are_noted():
    changes = {"method": "layercam", "layer": "layer3", "target": "label", "threshold": 0.7}
    notes = compare(results(), results("second", **changes)).notes
    assert notes == (
        "The method differs: gradcam, layercam.",
        "The layer differs: layer4, layer3.",
        "The target differs: predicted, label.",
        "The threshold differs: 0.5, 0.7.",
    )
