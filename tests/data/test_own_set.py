"""A user-defined data set: the example in the documentation works once it is registered."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from regard import data
from regard.bias import Results
from regard.cli import main
from regard.data.registry import SOURCES
from regard.errors import DataWarning, InputError

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "data.md"


@pytest.fixture
def discs(tmp_path, monkeypatch):
    """The class, registered during a test, and a folder of its files, my/."""
    monkeypatch.chdir(tmp_path)
    before = dict(SOURCES)
    section = DOCUMENT.read_text().partition("## Your own data set")[2]
    names = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], names)
    generator = np.random.default_rng(0)
    Path("my").mkdir(exist_ok=True)
    for split, count in (("train", 8), ("test", 6)):
        circles = generator.integers([8, 8, 3, 0], [24, 24, 8, 2], (count, 4)).tolist()
        Path(f"my/{split}.json").write_text(json.dumps(circles))
    yield names["Discs"]
    SOURCES.clear()
    SOURCES.update(before)


@pytest.mark.slow
def test_every_command_accepts_the_registered_data_set(discs, capsys):
    dataset_options = ["--data.name=discs", "--data.folder=my", "--data.size=32", "--data.workers=0"]
    training_options = ["--model.name=wrn-10-0.5", "--schedule.epochs=1", "--schedule.batch_size=4", "--device=cpu"]
    assert main(["train", *dataset_options, *training_options, "--run=run"]) == 0
    recorded = json.loads(Path("run/environment.json").read_text())["data"]["train"]["images"]
    assert recorded == np.bincount(discs(Path("my"), "train").labels).tolist()
    assert main(["train", *dataset_options, *training_options, "--schedule.epochs=2", "--run=run", "--resume"]) == 0
    assert main(["evaluate", "run"]) == 0
    capsys.readouterr()
    assert main(["bias", "run", "--data", "discs:my", "--method=gradcam", "--out=bias", "--device=cpu"]) == 0
    report = Results.load(next(Path("bias").glob("run*.json")))
    assert len(report) == 6 and report.dataset == "discs"


def test_a_registered_data_set_opens_like_a_built_in_one(discs):
    dataset = data.open_regions("discs:my", grey=90)
    assert len(dataset) == 6 and dataset.split == "test" and dataset.image(0).getpixel((0, 0)) == (90, 90, 90)
    assert len(data.open_regions("discs:my", split="train", limit=3)) == 3
    assert data.all_options("discs") == {"grey": 60} and data.is_streamed("discs")
    with pytest.raises(InputError, match="grey of data set 'discs' is 'x'; expected int"):
        data.load("discs", "my", grey="x")
    with pytest.raises(InputError, match="needs a folder .a folder with train.json"):
        data.load("discs")


def test_the_fingerprint_covers_images_masks_and_labels(discs):
    first = data.open_regions("discs:my")
    assert first.fingerprint() == data.open_regions("discs:my").fingerprint()
    assert len({first.fingerprint(), data.open_regions("discs:my", grey=61).fingerprint()}) == 2
    assert first.subset([1, 0]).fingerprint() != first.fingerprint()


def test_a_registered_data_set_can_be_read_into_memory(discs):
    resized = data.read_into_memory(discs(Path("my")), size=16)
    assert resized.images.shape == (6, 3, 16, 16) and torch.equal(resized.labels, discs(Path("my")).labels)
    original = data.read_into_memory(discs(Path("my")))
    assert np.array_equal(original.images[2].permute(1, 2, 0).numpy(), np.asarray(discs(Path("my")).image(2)))
    with pytest.raises(InputError, match="6 images of 'discs' would take"):
        data.read_into_memory(discs(Path("my")), memory_limit=100)


@pytest.mark.parametrize(
    "wrong", [lambda mask: mask.astype(np.uint8) * 255, lambda mask: mask.astype(float), torch.tensor, Image.fromarray]
)
def test_masks_that_are_no_boolean_arrays_are_refused(discs, monkeypatch, wrong):
    dataset, mask = discs(Path("my")), discs.mask
    dataset.mean, dataset.std = (0, 0, 0), (1, 1, 1)
    monkeypatch.setattr(discs, "mask", lambda self, index: wrong(mask(self, index)))
    with pytest.raises(InputError, match=r"expected a NumPy array, bool \(H, W\)"):
        next(data.create_loader(dataset, 6, transform=data.Transform((16, 16)), masks=True).epoch(0))
    with pytest.raises(InputError, match=r"expected a NumPy array, bool \(H, W\)"):
        data.read_into_memory(dataset, size=16)


# Data sets that are opened one split at a time can be trained on as well.


@pytest.fixture
def masks(tmp_path, write_image, write_mask):
    """train/ and val/, each with two class folders and one image outside them."""
    for split in ("train", "val"):
        for seed, name in enumerate(("a/0", "b/1", "loose")):
            write_image(tmp_path / split / "images" / f"{name}.png", seed=seed)
            write_mask(tmp_path / split / "masks" / f"{name}.png", np.ones((8, 12), dtype=bool))
    return tmp_path


def test_images_without_a_label_are_left_out_of_training(masks):
    with pytest.warns(DataWarning, match="1 of the 3 images of split 'train' of 'masks' have no labels: left out"):
        train, test = data.load("masks", masks)
    assert (train.split, test.split, train.labels.tolist(), list(train.keys)) == (
        "train",
        "val",
        [0, 1],
        ["a/0.png", "b/1.png"],
    )
    assert train.mask(0).all() and train.classes == ("a", "b")
    loader = data.create_loader(test, 2, transform=data.Transform((8, 8)), masks=True)
    assert [batch.masks.shape for batch in loader.epoch(0)] == [(2, 8, 8)]


def test_a_missing_test_split_is_named(masks):
    (masks / "val").rename(masks / "other")
    with pytest.raises(InputError, match="'masks' has no split in .* to test on"):
        data.load("masks", masks)


def test_without_splits_every_fifth_image_is_held_out(tmp_path, write_image, write_mask):
    for i in range(10):
        write_image(tmp_path / "images" / "ab"[i % 2] / f"{i}.png", (12, 8), seed=i)
        write_mask(tmp_path / "masks" / "ab"[i % 2] / f"{i}.png", np.ones((8, 12), dtype=bool))
    with pytest.warns(DataWarning, match="'masks' has no splits: 2 of its 10 images are held out to test on"):
        train, test = data.load("masks", tmp_path)
    assert (len(train), len(test), train.split, test.split) == (8, 2, "train", "test")
    assert test.keys == ("a/8.png", "b/9.png") and test.has_masks


def test_image_and_mask_open_the_image_file_once(masks, monkeypatch):
    opened = []
    monkeypatch.setattr(
        Image, "open", lambda file, *rest, at=Image.open, **more: opened.append(str(file)) or at(file, *rest, **more)
    )
    dataset = data.open_regions(f"masks:{masks}", split="val")
    dataset.image(1), dataset.mask(1)
    assert len(opened) == len(set(opened)) == 2
