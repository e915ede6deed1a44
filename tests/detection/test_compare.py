"""Comparisons of detectors on the same images: resampled precision, intervals and p-values."""

from dataclasses import replace

import numpy as np
import pytest
from support.detections import judged, results, scene

from regard import detection
from regard.detection.matching import MEASURES, PRECISIONS, Matches
from regard.detection.table import Table
from regard.errors import InputError


def resample(evaluation, images):
    """The results for these images; an image that occurs several times counts several times."""

    def select(table):
        return Table.joined([table.where(table.image == i) for i in images])

    tables = {
        "truth": select(evaluation.truth),
        "detections": select(evaluation.detections),
        "sizes": evaluation.sizes[images],
    }
    numbers = tuple(range(len(images)))
    return replace(evaluation, keys=tuple(map(str, numbers)), image_ids=numbers, **tables)


@pytest.mark.parametrize("masks", [False, True])
def test_precision_of_a_sample_equals_evaluating_those_images(masks):
    scene_results, kind = scene(1, masks), "masks" if masks else "boxes"
    rng = np.random.default_rng(0)
    samples = [np.arange(12), *np.sort(rng.integers(0, 12, (3, 12)), axis=1)]
    weights = np.stack([np.bincount(images, minlength=12) for images in samples])
    actual = Matches.of(scene_results, kind).precisions(weights)
    columns = [MEASURES.index(name) for name in PRECISIONS]
    for i, images in enumerate(samples):
        expected = judged(resample(scene_results, images), kind)[columns]
        np.testing.assert_allclose([actual[name][i] for name in PRECISIONS], expected, rtol=0, atol=1e-12)


BOX = (10, 10, 40, 40)
FAR = (70, 40, 40, 40)


def detector(right, wrong=(), model="one", images=40):
    """One medium object per image, detected in the images `right`; the images `wrong` have a wrong box."""
    truth = [(i, 0, BOX, 0, 1600) for i in range(images)]
    detections = [(i, 0, BOX, 0.9) for i in right] + [(i, 0, FAR, 0.95) for i in wrong]
    return results(truth, detections, 1, images, model=model)


def test_compare_reports_differences_with_intervals_and_p_values():
    better, worse = detector(range(40), model="better"), detector(range(20), range(5, 25), model="worse")
    comparison = detection.compare(better, worse, samples=300)
    assert (comparison.model, comparison.reference) == ("better", "worse")
    ap = comparison.differences["boxes", "AP"]
    # 20 correct boxes after 20 wrong ones: precision 0.5 up to recall 0.5.
    assert ap.value == pytest.approx(1 - 0.5 * 51 / 101, abs=1e-12) and ap.n == 40
    assert 0 < ap.low < ap.value < ap.high < 1 and ap.p == pytest.approx(2 / 301) and ap.significant
    assert comparison.differences["boxes", "APs"].p is None  # no object is small
    adjusted = {d.p_adjusted for d in comparison.differences.values() if d.p is not None}
    assert adjusted == {4 * ap.p}  # AP, AP50, AP75 and APm
    reverse = detection.compare(worse, better, samples=300).differences["boxes", "AP"]
    assert (reverse.value, reverse.low, reverse.high, reverse.p) == pytest.approx((-ap.value, -ap.high, -ap.low, ap.p))
    assert detection.compare(better, worse, samples=300).to_records() == comparison.to_records()
    assert detection.compare(better, worse, samples=300, seed=1).differences["boxes", "AP"].low != ap.low
    same = detection.compare(better, better, samples=100).differences["boxes", "AP"]
    assert (same.value, same.low, same.high, same.p, same.significant) == (0, 0, 0, 1, False)
    lines = comparison.plot().axes[0].get_lines()
    assert ap.value in [line.get_xdata()[0] for line in lines] and "significant" in comparison._repr_html_()
    with pytest.raises(InputError, match="masks"):
        comparison.plot("masks")
    record = comparison.to_records()[0]
    assert (record["kind"], record["measure"], record["p"], record["significant"]) == ("boxes", "AP", ap.p, True)


def test_p_values_of_all_comparisons_are_corrected_together():
    reference = detector(range(20), range(5, 25), model="reference")
    models = [detector(range(40), model=name) for name in ("a", "b")]
    comparisons = detection.compare_all([reference, *models], samples=200)
    assert [comparison.model for comparison in comparisons] == ["a", "b"]
    assert {comparison.reference for comparison in comparisons} == {"reference"}
    assert comparisons[1].differences["boxes", "AP"].p_adjusted == pytest.approx(8 * 2 / 201)


def test_comparing_results_of_different_images_fails():
    result = detector(range(40))
    with pytest.raises(InputError, match="40 images of 1 classes, two on 39"):
        detection.compare(result, detector(range(39), model="two", images=39))
    with pytest.raises(InputError, match="with different objects"):
        detection.compare(result, replace(result, truth=replace(result.truth, box=result.truth.box + 1)))
    with pytest.raises(InputError, match="samples is 99"):
        detection.compare(result, result, samples=99)
