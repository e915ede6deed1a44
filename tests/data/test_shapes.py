import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.data.regions.shapes import box_mask, grid_mask, polygon_mask, run_mask, runs_of

SQUARE = [(2, 1), (6, 1), (6, 4), (2, 4)]


def covered(mask):
    return {(int(x), int(y)) for y, x in np.argwhere(mask)}


def by_rays(ring, width, height):
    """The same rule, pixel by pixel: crossings to the left of the centre, upper and left edges inside."""
    mask = np.zeros((height, width), dtype=bool)
    for row in range(height):
        for column in range(width):
            x, y, crossings = column + 0.5, row + 0.5, 0
            for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True):
                if (y1 > y2) or (y1 == y2 and x1 > x2):
                    x1, y1, x2, y2 = x2, y2, x1, y1
                crossings += bool(y1 <= y < y2 and x1 + (y - y1) / (y2 - y1) * (x2 - x1) <= x)
            mask[row, column] = crossings % 2
    return mask


points = st.tuples(*[st.integers(-40, 120).map(lambda n: n / 4)] * 2)


@given(st.lists(points, min_size=3, max_size=9), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=150, deadline=None)
def test_a_pixel_belongs_to_a_polygon_if_its_centre_does(ring, width, height):
    assert np.array_equal(polygon_mask([np.array(ring)], width, height), by_rays(ring, width, height))


def test_edges_at_centres_belong_above_and_to_the_left():
    ring = np.array([(0.5, 0.5), (2.5, 0.5), (2.5, 2.5), (0.5, 2.5)])
    assert covered(polygon_mask([ring], 4, 4)) == {(0, 0), (1, 0), (0, 1), (1, 1)}


def test_polygons_with_a_common_edge_neither_overlap_nor_leave_a_gap():
    generator = np.random.default_rng(0)
    corners = np.array([(0, 0), (30, 0), (30, 30), (0, 30)], dtype=float)
    for _ in range(50):
        middle = generator.integers(1, 120, 2) / 4
        parts = [np.array([corners[i], corners[(i + 1) % 4], middle]) for i in range(4)]
        total = sum(polygon_mask([part], 30, 30).astype(int) for part in parts)
        assert (total == 1).all()


def test_several_polygons_are_a_union_and_one_within_another_is_no_hole():
    outer = np.array([(0, 0), (8, 0), (8, 8), (0, 8)])
    inner = np.array([(2, 2), (4, 2), (4, 4), (2, 4)])
    beside = np.array([(9, 0), (10, 0), (10, 2), (9, 2)])
    found = covered(polygon_mask([outer, inner, beside], 12, 12))
    assert found == {(x, y) for x in range(8) for y in range(8)} | {(9, 0), (9, 1)}


def test_a_ring_that_goes_around_twice_is_outside_there():
    star = [(5 + 5 * math.sin(a), 5 - 5 * math.cos(a)) for a in [i * 4 * math.pi / 5 for i in range(5)]]
    mask = polygon_mask([np.array(star) * 4], 40, 40)
    assert not mask[20, 20] and mask[6, 20] and mask[15, 5]


def test_direction_and_starting_corner_do_not_matter():
    ring = np.array([(1.3, 2.2), (17.8, 3.1), (12.4, 15.9), (4.1, 11.7)])
    first = polygon_mask([ring], 20, 20)
    assert first.sum() > 100
    for turned in (ring[::-1], np.roll(ring, 2, axis=0), np.append(ring, ring[:1], axis=0)):
        assert np.array_equal(polygon_mask([turned], 20, 20), first)


@pytest.mark.parametrize(
    "ring", [[], [(1, 1)], [(1, 1), (8, 8)], [(1, 1), (8, 8), (1, 1)], [(3, 3)] * 5, [(0, 2), (9, 2), (4, 2)]]
)
def test_degenerate_polygons_cover_nothing(ring):
    assert not polygon_mask([np.array(ring, dtype=float)], 10, 10).any()


def test_beyond_the_image_is_cut_off():
    assert polygon_mask([np.array([(-1e9, -1e9), (1e9, -1e9), (1e9, 1e9), (-1e9, 1e9)])], 7, 5).all()
    assert not polygon_mask([np.array([(20, 0), (30, 0), (30, 9), (20, 9)])], 7, 5).any()
    assert not polygon_mask([np.array([(-9, -9), (-1, -9), (-1, 9)])], 7, 5).any()
    half = polygon_mask([np.array([(-50, -50), (3, -50), (3, 50), (-50, 50)])], 7, 5)
    assert half[:, :3].all() and not half[:, 3:].any()


def test_boxes():
    assert covered(box_mask([(2, 1, 6, 4)], 9, 9)) == {(x, y) for x in range(2, 6) for y in range(1, 4)}
    assert covered(box_mask([(0.4, 0.6, 2.6, 1.7)], 5, 5)) == {(0, 1), (1, 1), (2, 1)}
    assert box_mask([(-5, -5, 100, 100)], 4, 3).all()
    assert not box_mask([(3, 3, 1, 1), (50, 0, 60, 9), (1, 1, 1, 4)], 5, 5).any()
    assert box_mask([(0, 0, 1, 1), (4, 2, 5, 3)], 5, 3).sum() == 2
    assert not box_mask([], 5, 3).any()


@given(*[st.floats(-3, 12)] * 4)
def test_a_box_is_the_polygon_of_its_corners(x1, y1, x2, y2):
    x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    ring = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    assert np.array_equal(box_mask([(x1, y1, x2, y2)], 9, 8), polygon_mask([ring], 9, 8))


def test_grids():
    mask = grid_mask(np.array([(0, 0), (15, 0), (3, 9)]), 16, 96, 96)
    expected = {(x + 6 * cx, y + 6 * cy) for cx, cy in ((0, 0), (15, 0), (3, 9)) for x in range(6) for y in range(6)}
    assert covered(mask) == expected
    # A grid that does not divide the image: each pixel belongs to the cell its centre is in.
    mask = grid_mask(np.array([(1, 0)]), 3, 10, 4)
    assert covered(mask) == {(x, 0) for x in range(10) if 1 <= (x + 0.5) * 3 / 10 < 2}
    assert not grid_mask(np.array([(16, 3), (-1, 2), (3, 16)]), 16, 96, 96).any()
    assert not grid_mask(np.zeros((0, 2), dtype=int), 16, 8, 8).any()


def test_run_length_codes():
    assert covered(run_mask([runs_of([1, 2, 3], 2, 3)], 2, 3)) == {(0, 1), (0, 2)}
    assert run_mask([runs_of([0, 6], 3, 2)], 3, 2).all()
    assert not run_mask([runs_of([6], 3, 2)], 3, 2).any()


@pytest.mark.parametrize(
    "counts",
    [[1, 2], [7], [-1, 7], [1.5, 4.5], [True, 5], "###", "o", b"\xff", "", None, {"a": 1}, [10**30], "oooooooo1"],
)
def test_what_is_no_code_of_the_image(counts):
    with pytest.raises(ValueError, match="its "):
        runs_of(counts, 3, 2)


# Against COCO's own tools, where they are installed.


def random_mask(seed, width, height):
    generator = np.random.default_rng(seed)
    coarse = generator.random((height // 4 + 2, width // 4 + 2)) < generator.choice([0.1, 0.5, 0.9])
    return np.kron(coarse, np.ones((4, 4), dtype=bool))[1 : height + 1, 2 : width + 2]


@pytest.mark.parametrize("seed", range(40))
def test_run_length_codes_are_read_as_coco_reads_them(seed):
    coco = pytest.importorskip("pycocotools.mask")
    width, height = [(3, 5), (64, 48), (640, 480), (1, 1), (1, 300)][seed % 5]
    mask = random_mask(seed, width, height)
    packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert np.array_equal(run_mask([runs_of(packed, width, height)], width, height), mask)
    assert np.array_equal(run_mask([runs_of(packed.decode(), width, height)], width, height), mask)
    flat = mask.T.reshape(-1)
    ends = np.append(np.flatnonzero(np.diff(flat)) + 1, len(flat))
    plain = np.diff(np.append(0, ends)).tolist()
    plain = [0, *plain] if flat[0] else plain
    assert np.array_equal(run_mask([runs_of(plain, width, height)], width, height), mask)
    again = coco.frPyObjects({"counts": plain, "size": [height, width]}, height, width)
    assert np.array_equal(coco.decode(again).astype(bool), mask)


@pytest.mark.parametrize("seed", range(30))
def test_polygons_are_those_of_coco_but_for_the_border(seed):
    coco = pytest.importorskip("pycocotools.mask")
    generator = np.random.default_rng(seed)
    width, height = 120, 90
    rings = []
    for _ in range(generator.integers(1, 4)):
        count = generator.integers(3, 30)
        angles = np.sort(generator.random(count)) * 2 * np.pi
        radius = generator.uniform(8, 45, count)
        centre = generator.uniform(10, 80, 2)
        rings.append(centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None])
    ours = polygon_mask(rings, width, height)
    codes = coco.frPyObjects([ring.reshape(-1).tolist() for ring in rings], height, width)
    theirs = coco.decode(coco.merge(codes)).astype(bool)
    y, x = np.mgrid[:height, :width] + 0.5
    away = np.full((height, width), np.inf)
    for ring in rings:
        for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            along = np.clip(((x - a[0]) * (b - a)[0] + (y - a[1]) * (b - a)[1]) / ((b - a) ** 2).sum(), 0, 1)
            away = np.minimum(away, np.hypot(x - a[0] - along * (b - a)[0], y - a[1] - along * (b - a)[1]))
    assert ours.any() and not (ours ^ theirs)[away > 1].any()
    assert abs(int(ours.sum()) - int(theirs.sum())) <= 0.06 * ours.sum()
