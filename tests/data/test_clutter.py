import hashlib

import numpy as np
import pytest
import torch

from regard import data
from regard.data import builtin
from regard.data.random import RandomStream
from regard.errors import InputError


@pytest.fixture(scope="module")
def splits():
    return data.clutter(train=2000, test=500)


def luma(images):
    return (images.float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)


def test_splits_have_the_documented_shapes_types_and_names(splits):
    for split, count in (("train", 2000), ("test", 500)):
        part = getattr(splits, split)
        assert (part.name, part.split, len(part)) == ("clutter", split, count)
        assert part.images.shape == (count, 3, 32, 32) and part.images.dtype == torch.uint8
        assert part.regions.shape == (count, 32, 32) and part.regions.dtype == torch.bool
        assert part.classes == tuple("0123456789")
        assert part.labels.bincount().tolist() == [count // 10] * 10
    assert splits.train.mean == splits.test.mean and splits.train.std == splits.test.std


def test_default_split_sizes():
    splits = data.clutter()
    assert (len(splits.train), len(splits.test)) == (6000, 1000)


def test_the_same_seed_gives_the_same_bytes_on_every_machine():
    digest = hashlib.sha256()
    for part in data.clutter(train=200, test=50, seed=5):
        for tensor in (part.images, part.labels, part.regions):
            digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest() == "6baf4fc4ff92596e7d324c8c3680ae7810a22fd1ef3aa02054bc10612920cfd8"


def test_different_seeds_give_different_images():
    first, second = (data.clutter(train=20, test=20, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.train.images, second.train.images)
    assert not torch.equal(first.train.images, first.test.images)


def test_the_cue_changes_backgrounds_only():
    first, second = (data.clutter(train=50, test=50, cue=cue) for cue in (0.0, 1.0))
    assert torch.equal(first.train.labels, second.train.labels)
    assert torch.equal(first.train.regions, second.train.regions)
    assert torch.equal(first.test.images, second.test.images)
    assert not torch.equal(first.train.images, second.train.images)


def test_train_and_test_share_no_digit():
    train, test = builtin.digits()
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    assert not {cells.tobytes() for cells in train.cells} & {cells.tobytes() for cells in test.cells}
    for part in (train, test):
        shares = np.bincount(part.labels) / len(part.labels)
        assert len(shares) == 10 and shares.min() > 0.095 and shares.max() < 0.105


def test_the_digit_matches_the_label_and_scraps_come_from_all():
    digits = builtin.digits()[1]
    plan = builtin.plan(digits, 3000, 0.0, RandomStream(0))
    assert (digits.labels[plan.digit] == plan.label).all()
    assert len(np.unique(plan.digit)) == len(np.unique(plan.scrap_digit)) == 360
    assert np.unique(plan.size).tolist() == list(range(12, 21))
    assert (plan.top >= 0).all() and (plan.top + plan.size <= 32).all() and (plan.left + plan.size <= 32).all()


@pytest.mark.parametrize("cue", [0.0, 0.4, 0.9, 1.0])
def test_the_cue_sets_how_often_background_matches_label(cue):
    plan = builtin.plan(builtin.digits()[0], 20000, cue, RandomStream(1))
    agree = plan.background == plan.label
    assert abs(agree.mean() - (cue + (1 - cue) / 10)) < 0.01
    # Without the cue the background is uninformative: all pairs of label and background are equally frequent.
    if cue == 0:
        pairs = np.bincount(plan.label * 10 + plan.background, minlength=100)
        assert pairs.min() > 140 and pairs.max() < 260


def test_backgrounds_predict_their_class():
    cued = data.clutter(train=2000, test=500, cue=1.0, test_cue=1.0)
    means = torch.stack([cued.train.images[cued.train.labels == label].float().mean(0) for label in range(10)])
    distance = (cued.test.images.float()[:, None] - means).pow(2).sum((2, 3, 4))
    assert (distance.argmin(1) == cued.test.labels).float().mean() > 0.35  # by distance to the class mean alone


def test_background_crops_stay_within_the_area_of_their_class():
    plan = builtin.plan(builtin.digits()[0], 5000, 0.0, RandomStream(2))
    _, top, left, height, width = (np.array(column)[plan.background] for column in zip(*builtin.AREAS, strict=True))
    assert (plan.crop_top * plan.scale >= top).all() and (plan.crop_left * plan.scale >= left).all()
    assert ((plan.crop_top + 32) * plan.scale <= top + height).all()
    assert ((plan.crop_left + 32) * plan.scale <= left + width).all()


def test_the_region_covers_exactly_the_digit():
    """The same plan rendered with and without digits differs inside the region, and hardly around it."""
    digits = builtin.digits()[0]
    plan = builtin.plan(digits, 200, 0.5, RandomStream(4))
    plan.scraps[:] = 0
    rendered = builtin._make("train", digits, plan)
    without = builtin._make("train", builtin.Digits(digits.cells * 0, digits.labels), plan)
    changed = (rendered["images"].int() - without["images"].int()).abs().amax(1)
    regions = rendered["regions"]
    assert not without["regions"].any()
    assert (changed[regions] > 8).float().mean() > 0.99
    # Nothing changes beyond the soft edge of a stroke.
    near = torch.nn.functional.max_pool2d(regions[:, None].float(), 5, 1, 2)[:, 0] > 0
    assert (changed[~near] == 0).float().mean() > 0.995
    # Strokes are as tall as the digit and stay inside its box.
    for i in range(200):
        rows, columns = (np.flatnonzero(regions[i].any(axis).numpy()) for axis in (1, 0))
        assert plan.top[i] <= rows[0] and rows[-1] < plan.top[i] + plan.size[i]
        assert plan.left[i] <= columns[0] and columns[-1] < plan.left[i] + plan.size[i]
        assert rows[-1] - rows[0] + 1 >= plan.size[i] - 5


def test_every_digit_contrasts_with_its_surroundings(splits):
    for part in splits:
        regions, brightness = part.regions, luma(part.images)
        near = torch.nn.functional.max_pool2d(regions[:, None].float(), 7, 1, 3)[:, 0] > 0
        ring = near & ~regions
        inner = (brightness * regions).sum((1, 2)) / regions.sum((1, 2))
        outer = (brightness * ring).sum((1, 2)) / ring.sum((1, 2))
        contrast = (inner - outer).abs()
        assert contrast.min() > 45 and contrast.mean() > 80
        assert 0.3 < (inner > outer).float().mean() < 0.7


def test_every_image_has_a_region_of_plausible_size(splits):
    share = splits.train.regions.float().mean((1, 2))
    assert share.min() > 0.01 and share.max() < 0.3


@pytest.mark.parametrize(
    "options",
    [{"train": 0}, {"test": -1}, {"train": 2.5}, {"cue": 1.5}, {"test_cue": -0.1}, {"cue": "x"}, {"seed": -1}],
)
def test_invalid_arguments_are_named(options):
    with pytest.raises(InputError, match=next(iter(options))) as caught:
        data.clutter(**options)
    assert "\n" not in str(caught.value)


def test_outlines_are_the_convex_hulls_of_strokes():
    strokes, outlines = (
        data.clutter(train=60, test=60, region=region).test.regions.numpy() for region in ("strokes", "outline")
    )
    assert (outlines | strokes == outlines).all() and outlines.sum() > 1.2 * strokes.sum()
    hull = pytest.importorskip("scipy.spatial").ConvexHull
    y, x = np.mgrid[:32, :32].reshape(2, -1)
    for stroke, outline in zip(strokes[:20], outlines[:20], strict=True):
        edges = hull(np.argwhere(stroke)).equations  # a y + b x + c <= 0 inside
        exact = (edges[:, 0] * y[:, None] + edges[:, 1] * x[:, None] + edges[:, 2] <= 1e-9).all(1).reshape(32, 32)
        assert (outline == exact).all()
    with pytest.raises(InputError, match="unknown region of clutter 'hull'"):
        data.clutter(region="hull")
