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
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of two discs in the colour of their class on white, and backgrounds from blue to red."""
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


def load(root: Path, **options) -> data.Splits:
    options = {"foregrounds": f"masks:{root / 'set'}", "backgrounds": str(root / "backgrounds"), **options}
    return data.load("composites", **{"train": 90, "test": 60, "side": 32, **options})


def test_regions_match_the_objects_exactly(root):
    for images in load(root):
        assert images.classes == tuple(COLOURS) and images.images.shape[1:] == (3, 32, 32)
        assert set(torch.bincount(images.labels).tolist()) == {len(images) // 3}
        colours = torch.tensor([COLOURS[name] for name in images.classes])[images.labels]
        same = ((images.images.int() - colours[:, :, None, None]).abs() <= 6).all(1)  # bytes are rounded twice
        assert torch.equal(same, images.regions)  # no white surroundings, no blended edges
        for region in images.regions.numpy():
            sides = [np.ptp(np.flatnonzero(region.any(axis))) + 1 for axis in (0, 1)]
            assert 12 <= max(sides) <= 22


def test_the_cue_affects_backgrounds_and_not_objects(root):
    independent, correlated = (load(root, train=600, cue=cue, test_cue=0.5).train for cue in (0.0, 1.0))
    assert torch.equal(independent.regions, correlated.regions) and torch.equal(independent.labels, correlated.labels)
    assert bool(correlated.agrees.all()) and independent.agrees.float().mean() == pytest.approx(1 / 3, abs=0.06)
    half = load(root, train=600, test=600, cue=0.5)
    assert half.train.agrees.float().mean() == pytest.approx(2 / 3, abs=0.06)
    assert half.test.agrees.float().mean() == pytest.approx(1 / 3, abs=0.06)
    values = independent.images.float()
    warmth = (values[:, 0] - values[:, 2])[:, :, :].masked_fill(independent.regions, 0).flatten(1).sum(1)
    means = [float(warmth[independent.backgrounds == group].mean()) for group in range(3)]
    assert means == sorted(means)
    classes = independent.classes
    assert independent.groups[0] == f"{classes[independent.labels[0]]} on {classes[independent.backgrounds[0]]}"
    part = independent.subset([5, 3])
    assert part.groups == (independent.groups[5], independent.groups[3])


def test_images_depend_only_on_the_seed(root):
    first, repeated, other = (load(root, seed=seed).train for seed in (3, 3, 4))
    assert first.fingerprint() == repeated.fingerprint() != other.fingerprint()


def test_train_and_test_use_different_backgrounds(root):
    train, test = _photographs(root / "backgrounds", 32, 3)
    training_backgrounds = {image.tobytes() for part in train for image in part}
    assert [len(part) for part in train] == [8, 8, 8] and [len(part) for part in test] == [2, 2, 2]
    assert not any(image.tobytes() in training_backgrounds for part in test for image in part)


def test_classes_can_be_chosen_and_merged(root):
    train, test = load(root, classes=["cat", "insect=bee+ant"])
    assert train.classes == test.classes == ("cat", "insect")
    colours = [train.images[i][:, train.regions[i]].float().mean(1) for i in range(90) if train.labels[i] == 1]
    assert {("ant", "bee", "cat")[int(colour.argmax())] for colour in colours} == {"ant", "bee"}


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
def test_invalid_options_are_named(root, options, message):
    with pytest.raises(InputError, match=message):
        load(root, **options)


def test_missing_object_masks_or_too_few_backgrounds_are_refused(root, tmp_path):
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (30, 30), (9, 9, 9)).save(tmp_path / "set" / name / "a.png")
    with pytest.raises(InputError, match="no masks of single objects"):
        load(root, foregrounds=f"masks:{tmp_path / 'set'}")
    with pytest.raises(InputError, match="1 photographs"):
        load(root, backgrounds=str(tmp_path / "set/images"))
