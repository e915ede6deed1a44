"""Composites: exact regions, the correlation of class and background, and wrong input."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from regard import data
from regard.data.composites import _photographs
from regard.errors import InputError

COLOURS = {"ant": (250, 0, 0), "bee": (0, 250, 0), "cat": (0, 0, 250)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs with two discs each, in the colour of their class on white; and backgrounds from blue to red."""
    folder = tmp_path_factory.mktemp("composites")
    draws = np.random.default_rng(0)
    rows, columns = np.mgrid[:60, :90]
    for i in range(30):
        name = list(COLOURS)[i % 3]
        for part in ("images", "instances"):
            (folder / "set" / part / name).mkdir(parents=True, exist_ok=True)
        numbers = np.zeros((60, 90), np.uint8)
        for number, centre in ((1, 22), (2, 66)):
            radius = draws.integers(9, 20)
            numbers[(rows - 30) ** 2 + (columns - centre) ** 2 <= radius**2] = number
        pixels = np.where(numbers[..., None] > 0, COLOURS[name], 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "set/images" / name / f"{i:02d}.png")
        Image.fromarray(numbers).save(folder / "set/instances" / name / f"{i:02d}.png")
    (folder / "backgrounds").mkdir()
    for i in range(30):
        pixels = draws.integers(60, 80, (50, 70, 3), dtype=np.uint8) + np.array([2 * i, 0, 60 - 2 * i], np.uint8)
        Image.fromarray(pixels).save(folder / "backgrounds" / f"{i:02d}.png")
    return folder


def load(place: Path, **options) -> data.Splits:
    options = {"foregrounds": f"masks:{place / 'set'}", "backgrounds": str(place / "backgrounds"), **options}
    return data.load("composites", **{"train": 90, "test": 60, "side": 32, **options})


def test_regions_are_the_objects_to_the_pixel(place):
    for images in load(place):
        assert images.classes == tuple(COLOURS) and images.images.shape[1:] == (3, 32, 32)
        assert set(torch.bincount(images.labels).tolist()) == {len(images) // 3}
        colours = torch.tensor([COLOURS[name] for name in images.classes])[images.labels]
        same = ((images.images.int() - colours[:, :, None, None]).abs() <= 6).all(1)  # bytes are rounded twice
        assert torch.equal(same, images.regions)  # nothing of the white beside it, no mixed edge
        for region in images.regions.numpy():
            sides = [np.ptp(np.flatnonzero(region.any(axis))) + 1 for axis in (0, 1)]
            assert 12 <= max(sides) <= 22


def test_backgrounds_follow_the_cue_and_objects_do_not(place):
    plain, bound = (load(place, train=600, cue=cue, test_cue=0.5).train for cue in (0.0, 1.0))
    assert torch.equal(plain.regions, bound.regions) and torch.equal(plain.labels, bound.labels)
    assert bool(bound.agrees.all()) and plain.agrees.float().mean() == pytest.approx(1 / 3, abs=0.06)
    half = load(place, train=600, test=600, cue=0.5)
    assert half.train.agrees.float().mean() == pytest.approx(2 / 3, abs=0.06)
    assert half.test.agrees.float().mean() == pytest.approx(1 / 3, abs=0.06)
    values = plain.images.float()
    warmth = (values[:, 0] - values[:, 2])[:, :, :].masked_fill(plain.regions, 0).flatten(1).sum(1)
    means = [float(warmth[plain.backgrounds == group].mean()) for group in range(3)]
    assert means == sorted(means)
    assert plain.groups[0] == f"{plain.classes[plain.labels[0]]} on {plain.classes[plain.backgrounds[0]]}"
    some = plain.subset([5, 3])
    assert some.groups == (plain.groups[5], plain.groups[3])


def test_the_seed_alone_decides(place):
    first, again, other = (load(place, seed=seed).train for seed in (3, 3, 4))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_test_images_have_backgrounds_of_their_own(place):
    train, test = _photographs(place / "backgrounds", 32, 3)
    seen = {one.tobytes() for part in train for one in part}
    assert [len(part) for part in train] == [8, 8, 8] and [len(part) for part in test] == [2, 2, 2]
    assert not any(one.tobytes() in seen for part in test for one in part)


def test_classes_are_chosen_and_merged(place):
    train, test = load(place, classes=["cat", "insect=bee+ant"])
    assert train.classes == test.classes == ("cat", "insect")
    colours = [train.images[i][:, train.regions[i]].float().mean(1) for i in range(90) if train.labels[i] == 1]
    assert {("ant", "bee", "cat")[int(one.argmax())] for one in colours} == {"ant", "bee"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foregrounds": ""}, "composites need foregrounds"),
        ({"backgrounds": ""}, "composites need backgrounds"),
        ({"backgrounds": "nowhere"}, "nowhere"),
        ({"classes": ["dog", "cat"]}, "dog"),
        ({"classes": ["cat", "pet=cat+ant"]}, "'cat' is named twice"),
        ({"classes": ["cat"]}, "two or more"),
        ({"cue": 1.5}, "cue"),
        ({"largest": 0.3}, "largest"),
        ({"side": 8}, "side"),
    ],
)
def test_wrong_input(place, options, message):
    with pytest.raises(InputError, match=message):
        load(place, **options)


def test_a_set_needs_masks_of_objects_and_enough_backgrounds(place, tmp_path):
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (30, 30), (9, 9, 9)).save(tmp_path / "set" / name / "a.png")
    with pytest.raises(InputError, match="no masks of single objects"):
        load(place, foregrounds=f"masks:{tmp_path / 'set'}")
    with pytest.raises(InputError, match="1 photographs"):
        load(place, backgrounds=str(tmp_path / "set/images"))
