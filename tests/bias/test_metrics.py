"""Measures: known values, slow plain references, and properties that hold for any map and region."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from regard.bias import focus, measure, scaled
from regard.bias.metrics import _dilated
from regard.errors import InputError


def grid(text):
    """A map from digits, or a region from '#' and '.', row by row."""
    rows = text.split()
    if set("".join(rows)) <= set("#."):
        return torch.tensor([[c == "#" for c in row] for row in rows])[None]
    return torch.tensor([[float(c) for c in row] for row in rows], dtype=torch.float64)[None]


def measure_one(map_, region, **options):
    """The measures of one image as plain numbers."""
    measures = measure(map_, region, **options)
    assert len(measures) == 1
    return {name: value.item() for name, value in measures.items()}


# Slow references, from the definitions.


def slow_auc(values, inside):
    pairs = [(v, w) for v, i in zip(values, inside, strict=True) for w, j in zip(values, inside, strict=True) if i > j]
    return sum((v > w) + 0.5 * (v == w) for v, w in pairs) / len(pairs) if pairs else math.nan


def slow_precision(values, inside, k):
    """Averaged over the order of ties: every pixel with the lowest included value is equally likely to count."""
    if k == 0:
        return math.nan
    last = sorted(values, reverse=True)[k - 1]
    above = sum(v > last for v in values)
    hits = sum(i for v, i in zip(values, inside, strict=True) if v > last)
    level = [i for v, i in zip(values, inside, strict=True) if v == last]
    return (hits + (k - above) * sum(level) / len(level)) / k


def slow(map_, region, threshold, thresholds, k):
    """Every measure of one image (h, w), by loops over pixels, in the dtype of the map."""
    number = map_.dtype.type
    fine = all(math.isfinite(v) for v in map_.flatten())
    values = [max(v, number(0)) if fine else number(0) for v in map_.flatten()]
    inside = [bool(i) for i in region.flatten()]
    low, high = min(values), max(values)

    def sizes(level):
        """|F|, |R|, |F and R|."""
        size = overlap = 0
        for v, i in zip(values, inside, strict=True):
            if low < high and (v - low) / (high - low) >= number(level):
                size += 1
                overlap += i
        return size, sum(inside), overlap

    def share(part, total):
        return part / total if total else math.nan

    def iou(level):
        f, r, overlap = sizes(level)
        return share(overlap, f + r - overlap)

    f, r, overlap = sizes(threshold)
    constant = low == high
    energies = [float(v) / float(high) if high else 0.0 for v in values]
    ious = [iou(level) for level in thresholds]
    return {
        "position_bias": overlap == 0,
        "range_bias": 0 < overlap < f,
        "spill": share(f - overlap, f),
        "miss": share(r - overlap, r),
        "iou": iou(threshold),
        "mean_iou": sum(ious) / len(ious),
        "best_iou": max(ious),
        "pointing": not constant and any(i and v == high for v, i in zip(values, inside, strict=True)),
        "energy_inside": share(math.fsum(e for e, i in zip(energies, inside, strict=True) if i), math.fsum(energies)),
        "auc": slow_auc(values, inside),
        "rank_accuracy": slow_precision(values, inside, r),
        "top_k": slow_precision(values, inside, k),
        "focus_area": f / len(values),
        "region_area": r / len(values),
        "constant": constant,
    }


# Known values.


def test_a_focus_inside_the_region():
    m = measure_one(grid("0000 0980 0700 0000"), grid(".... .##. .##. ...."))
    assert not m["position_bias"] and not m["range_bias"] and m["pointing"] and not m["constant"]
    assert m["spill"] == 0 and m["miss"] == 1 / 4 and m["iou"] == 3 / 4
    assert m["energy_inside"] == 1 and m["auc"] == (3 + 0.5) / 4
    assert m["rank_accuracy"] == (3 + 1 / 13) / 4  # the fourth place is shared by 13 zeros, one of them inside
    assert m["focus_area"] == 3 / 16 and m["region_area"] == 4 / 16


def test_a_focus_outside_the_region():
    m = measure_one(grid("9000 0000 0000 0001"), grid(".... .... ..## ..##"))
    assert m["position_bias"] and not m["range_bias"] and not m["pointing"]
    assert m["spill"] == 1 and m["miss"] == 1 and m["iou"] == 0
    assert m["energy_inside"] == pytest.approx(0.1)
    assert m["top_k"] == 0


def test_a_focus_partly_outside_the_region():
    m = measure_one(grid("9500 5500 0000 0000"), grid("##.. #... #... ...."))
    assert not m["position_bias"] and m["range_bias"] and m["pointing"]
    assert m["spill"] == 1 / 4 and m["miss"] == 1 / 4 and m["iou"] == 3 / 5
    assert m["energy_inside"] == pytest.approx(19 / 24)


def test_iou_over_thresholds():
    # Scaled: 1, 3/4, 1/2, 1/4, 0 …
    m = measure_one(grid("8642 0000"), grid("##.. ...."), thresholds=(0.2, 0.5, 0.7, 1))
    assert m["mean_iou"] == (2 / 4 + 2 / 3 + 2 / 2 + 1 / 2) / 4 and m["best_iou"] == 1
    assert measure_one(grid("8642 0000"), grid("##.. ...."))["iou"] == 2 / 3
    # By default 0.05, 0.1, …, 0.95: five of them up to 1/4, five more up to 1/2, five up to 3/4, four above.
    default = measure_one(grid("8642 0000"), grid("##.. ...."))
    assert default["mean_iou"] == pytest.approx((5 * 2 / 4 + 5 * 2 / 3 + 5 * 2 / 2 + 4 * 1 / 2) / 19)
    single = measure_one(grid("8642 0000"), grid("##.. ...."), thresholds=[0.5])
    assert single["mean_iou"] == single["best_iou"] == single["iou"]


def test_negative_values_count_as_zero():
    region = grid("##.. ....")
    assert measure_one(grid("9300 0000"), region) == measure_one(grid("9300 0000") - grid("0057 9999"), region)


def test_focus_thresholds_the_scaled_map():
    map_ = grid("4567 4444")  # scaled: 0, 1/3, 2/3, 1
    assert focus(map_).tolist() == [[[False, False, True, True], [False] * 4]]
    assert focus(map_, 0.3)[0, 0].tolist() == [False, True, True, True]
    assert focus(map_, 1)[0, 0].tolist() == [False, False, False, True]


@pytest.mark.parametrize("level", [0.0, -3.0, 0.7])
def test_constant_map(level):
    m = measure_one(torch.full((1, 4, 4), level), grid("##.. ##.. .... ...."))
    assert m["constant"] and m["position_bias"] and not m["range_bias"] and not m["pointing"]
    assert math.isnan(m["spill"]) and m["miss"] == 1 and m["focus_area"] == 0
    assert m["iou"] == m["mean_iou"] == m["best_iou"] == 0
    assert m["auc"] == 0.5 and m["rank_accuracy"] == 0.25 and m["top_k"] == 0.25
    assert m["energy_inside"] == pytest.approx(0.25) if level > 0 else math.isnan(m["energy_inside"])


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 7, 15])
def test_non_finite_maps_count_as_zero(odd, place):
    map_ = torch.rand(1, 4, 4)
    map_[0].view(-1)[place] = odd
    assert not focus(map_).any() and (scaled(map_) == 0).all()
    region = grid("##.. ##.. .... ....")
    assert repr(measure_one(map_, region)) == repr(measure_one(torch.zeros(1, 4, 4), region))
    assert repr(measure_one(map_, grid("##" * 4 + " " + "#." * 4))) == repr(
        measure_one(torch.zeros(1, 4, 4), grid("##" * 4 + " " + "#." * 4))
    )


def test_empty_region():
    m = measure_one(grid("9100 0000"), grid(".... ...."))
    assert m["position_bias"] and not m["range_bias"] and not m["pointing"]
    assert m["spill"] == 1 and m["energy_inside"] == 0 and m["top_k"] == 0 and m["region_area"] == 0
    assert m["iou"] == m["mean_iou"] == m["best_iou"] == 0
    assert math.isnan(m["miss"]) and math.isnan(m["auc"]) and math.isnan(m["rank_accuracy"])


@pytest.mark.parametrize("level", [0.0, 0.7])
def test_constant_map_and_empty_region(level):
    m = measure_one(torch.full((1, 2, 4), level), grid(".... ...."))
    assert m["constant"] and m["position_bias"] and not m["range_bias"] and not m["pointing"]
    for name in ("spill", "miss", "iou", "mean_iou", "best_iou", "auc", "rank_accuracy"):
        assert math.isnan(m[name]), name
    assert m["top_k"] == m["focus_area"] == m["region_area"] == 0


@pytest.mark.parametrize("level", [0.0, 0.7])
def test_constant_map_and_full_region(level):
    m = measure_one(torch.full((1, 2, 4), level), grid("#### ####"))
    assert m["constant"] and m["position_bias"] and not m["range_bias"] and not m["pointing"]
    assert math.isnan(m["spill"]) and m["miss"] == 1 and m["iou"] == m["mean_iou"] == m["best_iou"] == 0
    assert math.isnan(m["auc"]) and m["rank_accuracy"] == m["top_k"] == 1
    assert m["energy_inside"] == 1 if level else math.isnan(m["energy_inside"])


def test_full_region():
    m = measure_one(grid("9100 0000"), grid("#### ####"))
    assert not m["position_bias"] and not m["range_bias"] and m["pointing"]
    assert m["spill"] == 0 and m["miss"] == 7 / 8 and m["iou"] == 1 / 8
    assert m["energy_inside"] == 1 and m["rank_accuracy"] == 1 and m["top_k"] == 1 and m["region_area"] == 1
    assert math.isnan(m["auc"])


def test_pointing_with_tolerance_and_ties():
    region = grid("...... ...... ...##. ...##. ......")
    peak = grid("000000 090000 000000 000000 000000")  # 2 right, 1 down to the region: sqrt(5)
    assert [measure_one(peak, region, tolerance=t)["pointing"] for t in (0, 1, 2, 3)] == [False, False, False, True]
    two_peaks = grid("900000 000000 000900 000000 000000")
    assert measure_one(two_peaks, region)["pointing"]


def test_top_k():
    map_, region = grid("9876 5000"), grid("#.#. #...")
    assert [measure_one(map_, region, top_k=k)["top_k"] for k in (1, 2, 3, 5)] == [1, 1 / 2, 2 / 3, 3 / 5]
    large = torch.arange(100.0).reshape(1, 10, 10)
    assert measure_one(large, large > 97)["top_k"] == 1  # by default one pixel in 50


def test_smaller_maps_are_enlarged():
    small = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0))
    regions = torch.zeros(3, 28, 21, dtype=torch.bool)
    regions[:, 4:20, 3:12] = True
    large = torch.nn.functional.interpolate(small[:, None], (28, 21), mode="bilinear", align_corners=False)[:, 0]
    for (name, actual), (_, expected) in zip(
        measure(small, regions).items(), measure(large, regions).items(), strict=True
    ):
        torch.testing.assert_close(actual, expected, msg=name)
    assert measure(torch.full((3, 7, 7), 0.1), regions).constant.all()


def test_batches_equal_single_images():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(-3, 6, (9, 6, 5), generator=generator).double()
    maps[4], maps[5, 0, 0] = 2, math.nan
    regions = torch.rand(9, 6, 5, generator=generator) < 0.4
    regions[6], regions[7] = False, True
    batch = measure(maps, regions)
    for i in range(9):
        for name, value in measure(maps[i : i + 1], regions[i : i + 1]).items():
            torch.testing.assert_close(getattr(batch, name)[i : i + 1], value, equal_nan=True, msg=name)


def test_dtypes_of_the_measures():
    region = grid("##.. ....")
    for dtype, expected in [
        (torch.float64, torch.float64),
        (torch.float16, torch.float32),
        (torch.uint8, torch.float32),
    ]:
        measures = measure(grid("9300 0000").to(dtype), region)
        for name, value in measures.items():
            boolean = name in ("position_bias", "range_bias", "pointing", "constant")
            assert value.dtype == (torch.bool if boolean else expected) and value.shape == (1,), name


def test_large_values_do_not_overflow():
    m = measure_one(torch.full((1, 64, 64), 3e38).triu(), torch.ones(1, 64, 64, dtype=torch.bool).triu())
    assert m["energy_inside"] == 1 and m["spill"] == 0


def test_measures_run_on_meta_tensors():
    maps, regions = torch.zeros(2, 7, 7, device="meta"), torch.zeros(2, 14, 14, dtype=torch.bool, device="meta")
    assert all(value.shape == (2,) for _, value in measure(maps, regions, tolerance=2).items())


def test_empty_batches():
    measures = measure(torch.zeros(0, 4, 4), torch.zeros(0, 8, 8, dtype=torch.bool))
    assert all(value.shape == (0,) for _, value in measures.items())


# References and properties.

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 6))


@st.composite
def cases(draw, top=4):
    """A map with few levels, hence many ties, and a region of the same size."""
    h, w = draw(SIZES)
    values = draw(st.lists(st.integers(-1, top), min_size=h * w, max_size=h * w))
    inside = draw(st.lists(st.booleans(), min_size=h * w, max_size=h * w))
    return torch.tensor(values, dtype=torch.float64).reshape(1, h, w), torch.tensor(inside).reshape(1, h, w)


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(1, 36))
def test_ranks_agree_with_the_definitions(case, k):
    map_, region = case
    values, inside = map_.clamp(min=0).flatten().tolist(), region.flatten().tolist()
    k = min(k, len(values))
    m = measure_one(map_, region, top_k=k)
    assert m["auc"] == pytest.approx(slow_auc(values, inside), nan_ok=True)
    assert m["rank_accuracy"] == pytest.approx(slow_precision(values, inside, sum(inside)), nan_ok=True)
    assert m["top_k"] == pytest.approx(slow_precision(values, inside, k))


def test_auc_is_the_mann_whitney_statistic():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 50, (4, 30, 30), generator=generator).double()
    regions = torch.rand(4, 30, 30, generator=generator) < 0.2
    for map_, region, auc in zip(maps, regions, measure(maps, regions).auc, strict=True):
        inside, outside = map_[region], map_[~region]
        statistic = mannwhitneyu(inside.numpy(), outside.numpy()).statistic
        assert auc.item() == pytest.approx(statistic / (len(inside) * len(outside)), rel=1e-12)


def test_rank_accuracy_averages_over_orders_of_ties():
    # Adds small differences in every order to a tiny map, so that ties occur in every order.
    map_, region = grid("2110"), grid(".#.#")
    averaged = []
    for order in product([0, 1e-3, 2e-3, 3e-3], repeat=4):
        if len(set(order)) == 4:
            averaged.append(measure_one(map_ + torch.tensor(order, dtype=torch.float64), region)["rank_accuracy"])
    assert measure_one(map_, region)["rank_accuracy"] == pytest.approx(sum(averaged) / len(averaged))


def difficult_maps(kind, dtype, shape, random):
    """Maps (h, w) that are difficult to rank: ties, signed zeros, tiny, huge and nearly equal values."""
    info = np.finfo(dtype)
    uniform = random.random(shape)
    patch = np.zeros(shape, bool)
    patch[: shape[0] // 2, : shape[1] // 2] = True
    maps = {
        "uniform": uniform,
        "signed": uniform - 0.5,
        "levels": random.integers(0, 5, shape) / 4,
        "zeros of both signs": np.where(uniform < 0.4, -0.0, np.where(uniform < 0.8, 0.0, uniform)),
        "constant patch": np.where(patch, 0.75, uniform),
        "all but one": np.where(np.arange(uniform.size).reshape(shape) == 3, 1.0, 0.25),
        "tiny": random.integers(0, 9, shape) * float(info.smallest_subnormal),
        "huge": uniform * float(info.max),
        "nearly equal": 1 + random.integers(0, 3, shape) * float(info.eps),
        "of many sizes": 10.0 ** random.integers(-30, 30, shape),
        "falling": -np.arange(uniform.size).reshape(shape) + 10.0,
        "not finite": np.where(patch, np.inf, uniform),
    }[kind]
    return maps.astype(dtype)


KINDS = ["uniform", "signed", "levels", "zeros of both signs", "constant patch", "all but one", "tiny", "huge"]
KINDS += ["nearly equal", "of many sizes", "falling", "not finite"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_measures_agree_with_loops_over_pixels(kind, dtype):
    random = np.random.default_rng(KINDS.index(kind))
    shape, threshold, thresholds, k = (6, 9), 0.3, (0.1, 0.35, 0.6, 1.0), 7
    regions = np.stack([random.random(shape) < part for part in (0.3, 0.7, 0, 1)])
    maps = np.stack([difficult_maps(kind, dtype, shape, random) for _ in regions])
    actual = measure(torch.from_numpy(maps), torch.from_numpy(regions), threshold, thresholds=thresholds, top_k=k)
    for i, (map_, region) in enumerate(zip(maps, regions, strict=True)):
        for name, expected in slow(map_, region, threshold, thresholds, k).items():
            value = getattr(actual, name)[i].item()
            tolerance = float(np.finfo(dtype).eps) * (4 if name in ("energy_inside", "mean_iou") else 1)
            assert value == pytest.approx(expected, rel=tolerance, abs=0, nan_ok=True), name


@settings(max_examples=100, deadline=None)
@given(cases(top=9), st.sampled_from([0.05, 0.3, 0.5, 1.0]))
def test_measures_agree_with_loops_over_pixels_on_random_maps(case, threshold):
    map_, region = case
    thresholds = (0.05, 0.5, 0.95)
    expected = slow(map_[0].numpy(), region[0].numpy(), threshold, thresholds, 1)
    assert measure_one(map_, region, threshold=threshold, thresholds=thresholds) == pytest.approx(expected, nan_ok=True)


def test_results_do_not_depend_on_the_thread_count():
    random = np.random.default_rng(0)
    maps, regions = torch.from_numpy(random.random((5, 20, 20))), torch.from_numpy(random.random((5, 20, 20)) < 0.3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = measure(maps, regions)
        torch.set_num_threads(3)
        threaded = measure(maps, regions)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(single.items(), threaded.items(), strict=True))


def test_inputs_are_unchanged():
    maps, regions = torch.rand(2, 8, 8) - 0.5, torch.rand(2, 8, 8) < 0.5
    copies = maps.clone(), regions.clone()
    measure(maps, regions)
    assert torch.equal(maps, copies[0]) and torch.equal(regions, copies[1])


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from([0.25, 0.5, 1.0]))
def test_measures_are_in_range_and_consistent(case, threshold):
    map_, region = case
    m = measure_one(map_, region, threshold=threshold)
    for name, value in m.items():
        assert math.isnan(value) or -1e-12 <= value <= 1 + 1e-12, name
    assert not (m["position_bias"] and m["range_bias"])
    assert m["position_bias"] == (m["iou"] == 0 or math.isnan(m["iou"]))
    assert math.isnan(m["mean_iou"]) or m["mean_iou"] <= m["best_iou"] + 1e-12
    if not m["constant"]:
        assert m["range_bias"] == (0 < m["spill"] < 1)
        assert (m["spill"] == 1) == m["position_bias"]
        assert m["focus_area"] > 0
        # The highest pixels are part of the focus.
        assert not (m["pointing"] and m["position_bias"])
        if m["region_area"] > 0:
            precision, recall = 1 - m["spill"], 1 - m["miss"]
            assert precision * m["focus_area"] == pytest.approx(recall * m["region_area"])


@settings(max_examples=80, deadline=None)
@given(cases())
def test_exchanging_inside_and_outside(case):
    map_, region = case
    m, other = measure_one(map_, region), measure_one(map_, ~region)
    assert m["region_area"] + other["region_area"] == pytest.approx(1)
    for name in ("auc", "energy_inside"):
        if not math.isnan(m[name]):
            assert m[name] + other[name] == pytest.approx(1)
    if not m["constant"]:
        assert m["spill"] + other["spill"] == pytest.approx(1)
        assert m["range_bias"] == other["range_bias"]


@settings(max_examples=80, deadline=None)
@given(cases(), st.sampled_from([0.125, 4.0, 1024.0]), st.randoms(use_true_random=False))
def test_scale_and_pixel_order_do_not_matter(case, scale, random):
    map_, region = case
    m = measure_one(map_, region)
    order = list(range(map_.numel()))
    random.shuffle(order)
    shuffled = measure_one(
        scale * map_.flatten()[order].reshape(map_.shape), region.flatten()[order].reshape(map_.shape)
    )
    assert shuffled == pytest.approx(m, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(cases(top=9))
def test_a_higher_threshold_narrows_the_focus(case):
    map_, _ = case
    low, high = focus(map_, 0.3), focus(map_, 0.8)
    assume(low.any())
    assert (high <= low).all()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.rand(2, 4, 4), torch.ones(3, 4, 4, dtype=torch.bool)), {}, "2 maps for 3 regions"),
        ((torch.rand(2, 1, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)), {}, "maps are torch.float32"),
        ((torch.rand(2, 4, 4), torch.ones(2, 4, 4)), {}, "regions are torch.float32"),
        ((torch.rand(2, 4, 4), [[True]]), {}, "regions are list"),
        ((torch.rand(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)), {"threshold": 0}, "threshold is 0"),
        ((torch.rand(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)), {"threshold": "0.5"}, "threshold is '0.5'"),
        ((torch.rand(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)), {"threshold": 1.5}, "threshold is 1.5"),
        ((torch.rand(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)), {"thresholds": ()}, "give at least one"),
        ((torch.rand(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)), {"thresholds": (0.5, 0)}, "threshold is 0;"),
        ((torch.rand(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)), {"top_k": 17}, "top_k 17; expected 1 to 16"),
        ((torch.rand(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)), {"tolerance": -1}, "tolerance is -1"),
        ((torch.rand(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)), {"margin": 10**20}, "margin is 1000000"),
        ((torch.rand(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)), {"margin": math.nan}, "margin is nan"),
        ((torch.rand(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)), {"tolerance": math.inf}, "tolerance is inf"),
    ],
)
def test_wrong_input_fails(arguments, options, message):
    with pytest.raises(InputError, match=message):
        measure(*arguments, **options)


def test_range_bias_with_a_margin():
    """A focus of one row that extends three pixels beyond its region."""
    maps, regions = torch.zeros(1, 9, 9), torch.zeros(1, 9, 9, dtype=torch.bool)
    maps[0, 4, 2:8] = 1
    regions[0, 4, 2:5] = True
    actual = [measure(maps, regions, margin=margin) for margin in (0, 1, 2, 3)]
    assert [bool(measures.range_bias) for measures in actual] == [True, True, True, False]
    assert {float(measures.spill) for measures in actual} == {0.5} and not any(
        bool(measures.position_bias) for measures in actual
    )
    away = measure(maps.flip(1), regions.roll(-3, 1), margin=20)
    assert bool(away.position_bias) and not bool(away.range_bias)


@pytest.mark.parametrize(("shape", "radius"), [((3, 20, 17), 3), ((2, 5, 40), 7), ((4, 32, 32), 1), ((1, 6, 6), 15)])
def test_margins_are_euclidean_distances(shape, radius):
    regions = torch.rand(shape, generator=torch.Generator().manual_seed(radius)) > 0.95
    regions[0, 2, 3] = True
    places = torch.stack(torch.meshgrid(*map(torch.arange, shape[1:]), indexing="ij"), -1).flatten(0, 1).double()
    for region, near in zip(regions, _dilated(regions, radius), strict=True):
        distance = torch.cdist(places, region.nonzero().double())
        expected = (distance <= radius + 1e-9).any(1) if region.any() else torch.zeros(len(places), dtype=torch.bool)
        assert torch.equal(near.flatten(), expected)
