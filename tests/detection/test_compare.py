"""Two detectors on the same images: reused matches, and intervals with the stated coverage."""

from dataclasses import replace

import numpy as np
import pytest
from support.detections import judged, results, scene

from regard import detection
from regard.detection.matching import MEASURES, PRECISIONS, Matches
from regard.detection.table import Table
from regard.errors import InputError


def sampled(made, images):
    """The results of these images, each as often as it is among them."""

    def drawn(table):
        return Table.joined([table.where(table.image == i) for i in images])

    tables = {"truth": drawn(made.truth), "detections": drawn(made.detections), "sizes": made.sizes[images]}
    numbers = tuple(range(len(images)))
    return replace(made, keys=tuple(map(str, numbers)), image_ids=numbers, **tables)


@pytest.mark.parametrize("masks", [False, True])
def test_a_sample_of_images_has_the_precision_of_an_evaluation_of_it(masks):
    made, kind = scene(1, masks), "masks" if masks else "boxes"
    rng = np.random.default_rng(0)
    draws = [np.arange(12), *np.sort(rng.integers(0, 12, (3, 12)), axis=1)]
    weights = np.stack([np.bincount(images, minlength=12) for images in draws])
    found = Matches.of(made, kind).precisions(weights)
    places = [MEASURES.index(name) for name in PRECISIONS]
    for i, images in enumerate(draws):
        expected = judged(sampled(made, images), kind)[places]
        np.testing.assert_allclose([found[name][i] for name in PRECISIONS], expected, rtol=0, atol=1e-12)


BOX = (10, 10, 40, 40)
FAR = (70, 40, 40, 40)


def detector(right, wrong=(), model="one", images=40):
    """One medium object in each image, which is detected in the images `right`; a wrong box in those of `wrong`."""
    truth = [(i, 0, BOX, 0, 1600) for i in range(images)]
    found = [(i, 0, BOX, 0.9) for i in right] + [(i, 0, FAR, 0.95) for i in wrong]
    return results(truth, found, 1, images, model=model)


def test_differences():
    better, worse = detector(range(40), model="better"), detector(range(20), range(5, 25), model="worse")
    comparison = detection.compare(better, worse, samples=300)
    assert (comparison.model, comparison.reference) == ("better", "worse")
    one = comparison.differences["boxes", "AP"]
    # 20 right after 20 wrong: precision 0.5 up to recall 0.5.
    assert one.value == pytest.approx(1 - 0.5 * 51 / 101, abs=1e-12) and one.n == 40
    assert 0 < one.low < one.value < one.high < 1 and one.p == pytest.approx(2 / 301) and one.significant
    assert comparison.differences["boxes", "APs"].p is None  # no object is small
    adjusted = {d.p_adjusted for d in comparison.differences.values() if d.p is not None}
    assert adjusted == {4 * one.p}  # AP, AP50, AP75 and APm
    other = detection.compare(worse, better, samples=300).differences["boxes", "AP"]
    assert (other.value, other.low, other.high, other.p) == pytest.approx((-one.value, -one.high, -one.low, one.p))
    assert detection.compare(better, worse, samples=300).to_records() == comparison.to_records()
    assert detection.compare(better, worse, samples=300, seed=1).differences["boxes", "AP"].low != one.low
    same = detection.compare(better, better, samples=100).differences["boxes", "AP"]
    assert (same.value, same.low, same.high, same.p, same.significant) == (0, 0, 0, 1, False)
    drawn = comparison.plot().axes[0].get_lines()
    assert one.value in [line.get_xdata()[0] for line in drawn] and "significant" in comparison._repr_html_()
    with pytest.raises(InputError, match="masks"):
        comparison.plot("masks")
    record = comparison.to_records()[0]
    assert (record["kind"], record["measure"], record["p"], record["significant"]) == ("boxes", "AP", one.p, True)


def test_all_comparisons_are_corrected_together():
    reference = detector(range(20), range(5, 25), model="reference")
    others = [detector(range(40), model=name) for name in ("a", "b")]
    both = detection.compare_all([reference, *others], samples=200)
    assert [one.model for one in both] == ["a", "b"] and {one.reference for one in both} == {"reference"}
    assert both[1].differences["boxes", "AP"].p_adjusted == pytest.approx(8 * 2 / 201)


def test_results_of_other_images_are_not_compared():
    one = detector(range(40))
    with pytest.raises(InputError, match="40 images of 1 classes, two on 39"):
        detection.compare(one, detector(range(39), model="two", images=39))
    with pytest.raises(InputError, match="with different objects"):
        detection.compare(one, replace(one, truth=replace(one.truth, box=one.truth.box + 1)))
    with pytest.raises(InputError, match="samples is 99"):
        detection.compare(one, one, samples=99)
