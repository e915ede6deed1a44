"""The measures that Quantus also has: equal values, or how the definitions differ.

Quantus divides each map by its highest value, which changes none of these measures. It has no focus, spill, miss or
IoU.
"""

import numpy as np
import pytest
import torch

from regard.bias import measure

pytestmark = pytest.mark.filterwarnings("ignore")  # Quantus emits warnings of its own

TOP_K = 40
MEASURES = {
    "PointingGame": "pointing",
    "RelevanceMassAccuracy": "energy_inside",
    "AttributionLocalisation": "energy_inside",
    "RelevanceRankAccuracy": "rank_accuracy",
    "TopKIntersection": "top_k",
    "AUC": "auc",
}


@pytest.fixture(scope="module")
def quantus():
    # Imported here, since the import takes seconds.
    return pytest.importorskip("quantus")


@pytest.fixture
def quantus_values(quantus):
    def values(metric, maps, regions, **options):
        options |= {"k": TOP_K} if metric == "TopKIntersection" else {}
        compute = getattr(quantus, metric)(disable_warnings=True, display_progressbar=False, **options)
        n, h, w = maps.shape
        images = np.zeros((n, 3, h, w), maps.dtype)
        actual = compute(
            model=None,
            x_batch=images,
            y_batch=np.zeros(n, int),
            a_batch=maps[:, None].copy(),
            s_batch=regions[:, None].copy(),
        )
        return np.array(actual, dtype=float)

    return values


def regard_values(metric, maps, regions):
    measures = measure(torch.from_numpy(maps), torch.from_numpy(regions), top_k=TOP_K)
    return getattr(measures, MEASURES[metric]).double().numpy()


def random_maps(seed, dtype=np.float64, low=0.0):
    """Maps without ties, and regions neither empty nor full: blocks and scattered pixels."""
    random = np.random.default_rng(seed)
    maps = random.permuted(np.linspace(low, 1, 24 * 20)[None].repeat(8, 0), axis=1).reshape(8, 24, 20) ** 3
    regions = random.random((8, 24, 20)) < np.linspace(0.02, 0.9, 8)[:, None, None]
    regions[:4] = False
    for i in range(4):
        regions[i, i : 6 + 5 * i, 2 : 6 + 4 * i] = True
        maps[i, 3, 4] = 1.5 if i % 2 else 0.1  # so that some win the pointing game
    return maps.astype(dtype), regions


@pytest.mark.parametrize("metric", MEASURES)
@pytest.mark.parametrize("seed", range(3))
def test_values_agree_with_quantus(quantus_values, metric, seed):
    maps, regions = random_maps(seed)
    expected = quantus_values(metric, maps, regions)
    assert len(set(expected.round(9))) > 1  # something was compared
    np.testing.assert_allclose(regard_values(metric, maps, regions), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("metric", MEASURES)
def test_values_agree_with_quantus_in_single_precision(quantus_values, metric):
    maps, regions = random_maps(0, np.float32)
    np.testing.assert_allclose(
        regard_values(metric, maps, regions), quantus_values(metric, maps, regions), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("metric", MEASURES)
def test_negative_values_are_clipped_unlike_in_quantus(quantus_values, metric):
    # Quantus does not clip: mass accuracy subtracts negative values, attribution localisation adds their magnitude, and
    # ranks distinguish them, where regard has ties at 0. With clipped maps the values agree except for ties.
    maps, regions = random_maps(0, low=-0.8)
    assert (maps < 0).mean() > 0.3
    actual = regard_values(metric, maps, regions)
    clipped = maps.clip(0)
    np.testing.assert_array_equal(actual, regard_values(metric, clipped, regions))
    if metric != "RelevanceRankAccuracy":
        np.testing.assert_allclose(actual, quantus_values(metric, clipped, regions), rtol=0, atol=1e-6)
    if metric in ("RelevanceMassAccuracy", "AttributionLocalisation", "AUC"):
        assert abs(actual - quantus_values(metric, maps, regions)).max() > 0.01
    if metric == "AttributionLocalisation":
        actual = quantus_values(metric, maps, regions, abs=False, positive_attributions=True)
        np.testing.assert_allclose(regard_values(metric, maps, regions), actual, rtol=0, atol=1e-6)


@pytest.mark.parametrize("metric", ["RelevanceRankAccuracy", "TopKIntersection"])
def test_ties_are_averaged_unlike_in_quantus(quantus_values, metric):
    # Quantus uses the order of its sort, so its value depends on pixel positions; regard's value is the mean.
    random = np.random.default_rng(0)
    map_ = random.integers(0, 3, (12, 12)) / 2
    region = np.zeros((12, 12), bool)
    region[2:7, 3:9] = True
    orders = random.permuted(np.arange(144)[None].repeat(400, 0), axis=1)
    shuffled = [pixels.reshape(-1)[orders].reshape(-1, 12, 12) for pixels in (map_, region)]
    expected = regard_values(metric, map_[None], region[None])[0]
    np.testing.assert_allclose(regard_values(metric, *shuffled), expected, rtol=1e-6)
    actual = quantus_values(metric, *shuffled)
    assert np.std(actual) > 0.01
    assert np.mean(actual) == pytest.approx(expected, abs=4 * np.std(actual) / len(actual) ** 0.5)


@pytest.mark.parametrize("metric", ["AUC", "RelevanceMassAccuracy", "AttributionLocalisation", "PointingGame"])
def test_values_with_ties_agree_with_quantus(quantus_values, metric):
    random = np.random.default_rng(0)
    maps, regions = random.integers(0, 4, (6, 9, 9)) / 3, random.random((6, 9, 9)) < 0.3
    np.testing.assert_allclose(
        regard_values(metric, maps, regions), quantus_values(metric, maps, regions), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("metric", MEASURES)
def test_values_of_empty_regions(quantus_values, metric):
    # Quantus gives NaN, but counts the pointing game as won, because NaN converts to True.
    maps, regions = random_maps(0)
    regions[2] = False
    expected = quantus_values(metric, maps, regions)[2]
    assert expected == 1 if metric == "PointingGame" else np.isnan(expected)
    actual = regard_values(metric, maps, regions)[2]
    assert np.isnan(actual) if metric in ("AUC", "RelevanceRankAccuracy") else actual == 0


def test_constant_maps_never_win_the_pointing_game(quantus_values):
    # Every pixel has the highest value, so Quantus counts the pointing game as won, and regard as lost. Quantus rejects
    # batches of constant maps only.
    maps, regions = np.full((2, 8, 8), 0.5), np.zeros((2, 8, 8), bool)
    maps[1, 7, 7] = 1
    regions[:, 0, 0] = True
    assert quantus_values("PointingGame", maps, regions).tolist() == [1, 0]
    assert regard_values("PointingGame", maps, regions).tolist() == [0, 0]
    for metric in ("RelevanceMassAccuracy", "AttributionLocalisation", "AUC"):
        np.testing.assert_allclose(
            regard_values(metric, maps, regions), quantus_values(metric, maps, regions), rtol=0, atol=1e-6
        )
