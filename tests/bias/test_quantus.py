"""The measures that Quantus has too: the same values, or where its definitions differ, how.

Quantus divides each map by its highest value, which changes none of these measures. It has no focus, spill, miss or
IoU.
"""

import numpy as np
import pytest
import torch

from regard.bias import measure

pytestmark = pytest.mark.filterwarnings("ignore")  # Quantus warns on its own account

TOP_K = 40
OURS = {
    "PointingGame": "pointing",
    "RelevanceMassAccuracy": "energy_inside",
    "AttributionLocalisation": "energy_inside",
    "RelevanceRankAccuracy": "rank_accuracy",
    "TopKIntersection": "top_k",
    "AUC": "auc",
}


@pytest.fixture(scope="module")
def quantus():
    # Here: it takes seconds to import.
    return pytest.importorskip("quantus")


@pytest.fixture
def theirs(quantus):
    def values(metric, maps, regions, **options):
        options |= {"k": TOP_K} if metric == "TopKIntersection" else {}
        judge = getattr(quantus, metric)(disable_warnings=True, display_progressbar=False, **options)
        n, h, w = maps.shape
        images = np.zeros((n, 3, h, w), maps.dtype)
        actual = judge(
            model=None,
            x_batch=images,
            y_batch=np.zeros(n, int),
            a_batch=maps[:, None].copy(),
            s_batch=regions[:, None].copy(),
        )
        return np.array(actual, dtype=float)

    return values


def ours(metric, maps, regions):
    measures = measure(torch.from_numpy(maps), torch.from_numpy(regions), top_k=TOP_K)
    return getattr(measures, OURS[metric]).double().numpy()


def random_maps(seed, dtype=np.float64, low=0.0):
    """Maps without ties, and regions neither empty nor full: blocks and scattered pixels."""
    random = np.random.default_rng(seed)
    maps = random.permuted(np.linspace(low, 1, 24 * 20)[None].repeat(8, 0), axis=1).reshape(8, 24, 20) ** 3
    regions = random.random((8, 24, 20)) < np.linspace(0.02, 0.9, 8)[:, None, None]
    regions[:4] = False
    for i in range(4):
        regions[i, i : 6 + 5 * i, 2 : 6 + 4 * i] = True
        maps[i, 3, 4] = 1.5 if i % 2 else 0.1  # so that the pointing game is won by some
    return maps.astype(dtype), regions


@pytest.mark.parametrize("metric", OURS)
@pytest.mark.parametrize("seed", range(3))
def test_the_same_values(theirs, metric, seed):
    maps, regions = random_maps(seed)
    expected = theirs(metric, maps, regions)
    assert len(set(expected.round(9))) > 1  # something was compared
    np.testing.assert_allclose(ours(metric, maps, regions), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("metric", OURS)
def test_the_same_values_in_single_precision(theirs, metric):
    maps, regions = random_maps(0, np.float32)
    np.testing.assert_allclose(ours(metric, maps, regions), theirs(metric, maps, regions), rtol=0, atol=1e-6)


@pytest.mark.parametrize("metric", OURS)
def test_negative_values(theirs, metric):
    # Quantus does not clip: mass accuracy subtracts negative values, attribution localisation adds their size, and
    # ranks tell them apart, where ours all tie at 0. Clipped beforehand, maps are measured alike but for their ties.
    maps, regions = random_maps(0, low=-0.8)
    assert (maps < 0).mean() > 0.3
    actual = ours(metric, maps, regions)
    clipped = maps.clip(0)
    np.testing.assert_array_equal(actual, ours(metric, clipped, regions))
    if metric != "RelevanceRankAccuracy":
        np.testing.assert_allclose(actual, theirs(metric, clipped, regions), rtol=0, atol=1e-6)
    if metric in ("RelevanceMassAccuracy", "AttributionLocalisation", "AUC"):
        assert abs(actual - theirs(metric, maps, regions)).max() > 0.01
    if metric == "AttributionLocalisation":
        actual = theirs(metric, maps, regions, abs=False, positive_attributions=True)
        np.testing.assert_allclose(ours(metric, maps, regions), actual, rtol=0, atol=1e-6)


@pytest.mark.parametrize("metric", ["RelevanceRankAccuracy", "TopKIntersection"])
def test_ties(theirs, metric):
    # Quantus takes the order that its sort leaves them in, so its value hangs on where pixels lie; ours is the mean.
    random = np.random.default_rng(0)
    map_ = random.integers(0, 3, (12, 12)) / 2
    region = np.zeros((12, 12), bool)
    region[2:7, 3:9] = True
    actual = []
    for _ in range(400):
        order = random.permutation(144)
        moved = map_.reshape(-1)[order].reshape(1, 12, 12), region.reshape(-1)[order].reshape(1, 12, 12)
        assert ours(metric, *moved) == pytest.approx(ours(metric, map_[None], region[None]))
        actual.append(theirs(metric, *moved)[0])
    assert np.std(actual) > 0.01
    error = np.std(actual) / len(actual) ** 0.5
    assert np.mean(actual) == pytest.approx(ours(metric, map_[None], region[None])[0], abs=4 * error)


@pytest.mark.parametrize("metric", ["AUC", "RelevanceMassAccuracy", "AttributionLocalisation", "PointingGame"])
def test_ties_that_make_no_difference(theirs, metric):
    random = np.random.default_rng(0)
    maps, regions = random.integers(0, 4, (6, 9, 9)) / 3, random.random((6, 9, 9)) < 0.3
    np.testing.assert_allclose(ours(metric, maps, regions), theirs(metric, maps, regions), rtol=0, atol=1e-6)


@pytest.mark.parametrize("metric", OURS)
def test_empty_regions(theirs, metric):
    # Quantus has no value for them, but for the pointing game, which it counts as won: NaN put among booleans is True.
    maps, regions = random_maps(0)
    regions[2] = False
    expected = theirs(metric, maps, regions)[2]
    assert expected == 1 if metric == "PointingGame" else np.isnan(expected)
    actual = ours(metric, maps, regions)[2]
    assert np.isnan(actual) if metric in ("AUC", "RelevanceRankAccuracy") else actual == 0


def test_constant_maps(theirs):
    # Everywhere is the highest value, so Quantus counts the pointing game as won; ours says that nothing is pointed at.
    # It refuses a batch of nothing else.
    maps, regions = np.full((2, 8, 8), 0.5), np.zeros((2, 8, 8), bool)
    maps[1, 7, 7] = 1
    regions[:, 0, 0] = True
    assert theirs("PointingGame", maps, regions).tolist() == [1, 0]
    assert ours("PointingGame", maps, regions).tolist() == [0, 0]
    for metric in ("RelevanceMassAccuracy", "AttributionLocalisation", "AUC"):
        np.testing.assert_allclose(ours(metric, maps, regions), theirs(metric, maps, regions), rtol=0, atol=1e-6)
