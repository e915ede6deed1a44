"""Hugging Face data sets, streamed in training."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from support.loaders import rank_rows, streamed

from regard import data
from regard.errors import DataWarning, InputError

datasets = pytest.importorskip("datasets")

SIZE = 16


def jpeg(number):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (20, 26, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write(folder, labels, kind, image="image", label="label", broken=(), empty=()):
    """Writes Parquet files in the layout of the hub."""
    for split, count in (("train", 14), ("test", 9)):
        features = datasets.Features({image: datasets.Image(), label: kind})
        rows = {
            image: [
                None if i in empty else {"bytes": b"x" if i in broken else jpeg(i), "path": f"{i}.jpg"}
                for i in range(count)
            ],
            label: [labels[i % len(labels)] for i in range(count)],
        }
        (folder / "data").mkdir(exist_ok=True)
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "Set").mkdir()
    return tmp_path / "Set"


def load(folder, **options):
    return data.load("hfds", folder, size=SIZE, **options)


def error_of(*arguments, **options):
    with pytest.raises(InputError) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_parquet_batches_do_not_depend_on_workers_or_ranks(home):
    train, test = load(write(home, [0, 1, 2], datasets.ClassLabel(names=["x", "y", "z"])))
    assert (len(train), len(test), train.classes, train.name) == (14, 9, ("x", "y", "z"), "hfds")
    test_batches = list(streamed(test, 4).epoch(0))
    assert torch.cat([batch.labels for batch in test_batches]).tolist() == [i % 3 for i in range(9)]
    augmentation = data.Augmentation(policy="rand-m7-mstd0.5-inc1")
    loaders = [
        streamed(train, 6, augmentation=augmentation, shuffle=True, **options)
        for options in ({}, {"workers": 2}, {"rank": 1, "world_size": 2})
    ]
    first, other, part = (list(batches.epoch(1)) for batches in loaders)
    for one, two, three in zip(first, other, part, strict=True):
        rows = rank_rows(len(one.labels), 1, 2)
        assert torch.equal(one.images, two.images) and torch.equal(one.images[rows], three.images)
    rest = list(loaders[0].epoch(1, 2))
    assert len(rest) == 1 and torch.equal(rest[0].images, first[2].images)


def test_fingerprints_cover_labels_and_images(home, monkeypatch):
    kind = datasets.ClassLabel(names=["cat", "dog"])
    first = load(write(home, [0, 1], kind)).train.fingerprint()
    (home.parent / "elsewhere").mkdir()
    assert load(write(home.parent / "elsewhere", [0, 1], kind)).train.fingerprint() == first
    assert load(write(home, [1, 0], kind)).train.fingerprint() != first
    monkeypatch.setitem(globals(), "jpeg", lambda number, original=jpeg: original(7 if number == 3 else number))
    assert load(write(home, [0, 1], kind)).train.fingerprint() != first


def test_classes_may_be_strings_or_integers(home):
    train, test = load(write(home, ["q", "p"], datasets.Value("string")))
    assert train.classes == ("p", "q") and test.labels.tolist() == [1, 0] * 4 + [1]
    assert next(streamed(test, 3).epoch(0)).labels.tolist() == [1, 0, 1]
    (other := home.parent / "numbers").mkdir()
    assert load(write(other, [0, 3], datasets.Value("int64"))).train.classes == ("0", "1", "2", "3")
    (other := home.parent / "truths").mkdir()
    train, _ = load(write(other, [True, False], datasets.Value("bool")))
    assert train.classes == ("0", "1") and train.labels[:2].tolist() == [1, 0]


def test_unlabelled_images_are_left_out(home):
    kind = datasets.ClassLabel(names=["x", "y"])
    with pytest.warns(DataWarning, match="(5|3) of the (14|9) images of split"):
        train, test = load(write(home, [0, -1, 1], kind))
    assert (train.labels[:3].tolist(), train.keys[1], len(test)) == ([0, 1, 0], "2.jpg", 6)
    (other := home.parent / "numbers").mkdir()
    with pytest.warns(DataWarning):
        train, _ = load(write(other, [3, None, -1], datasets.Value("int64")))
    assert train.classes == ("0", "1", "2", "3") and train.labels.tolist() == [3] * 5
    assert "--data.options.train" in error_of(write(home, [-1], kind))


def test_columns_and_splits_can_be_chosen(home):
    write(home, [0, 1], datasets.ClassLabel(names=["x", "y"]), "picture", "kind")
    assert "has no column 'image' with images, but 'picture', 'kind'" in error_of(home) and "input_key" in error_of(
        home
    )
    message = error_of(home, input_key="picture")
    assert "has no column 'label' with classes, but 'picture', 'kind'" in message
    splits = load(home, input_key="picture", target_key="kind", train="test", test="train")
    assert next(streamed(splits.train, 9).epoch(0)).labels.tolist() == [i % 2 for i in range(9)]
    assert "valid" in error_of(home, input_key="picture", target_key="kind", test="valid")


def test_split_slices_work_and_columns_of_wrong_types_are_refused(home):
    write(home, [0, 1, 2], datasets.ClassLabel(names=["x", "y", "z"]))
    train, test = load(home, train="train[:5]", test="train[5:]")
    assert (len(train), len(test), test.keys[0], test.labels[:2].tolist()) == (5, 9, "5.jpg", [2, 0])
    assert "target_key" in error_of(home, target_key="image") and "input_key" in error_of(home, input_key="label")


def test_unreadable_images_are_named_or_skipped(home):
    folder = write(home, [0, 1], datasets.ClassLabel(names=["x", "y"]), broken=(3,), empty=(5,))
    with pytest.raises(InputError, match=r"3.jpg' is not an image.*--data.unreadable skip"):
        list(streamed(load(folder).test, 4).epoch(0))
    batches = list(streamed(load(folder).test, 4, unreadable="skip").epoch(0))
    skipped = [reason for batch in batches for reason in batch.skipped]
    assert sum(len(batch.labels) for batch in batches) == 7
    assert "3.jpg" in skipped[0] and "image 5' has no image" in skipped[1]


def test_missing_data_sets_are_named(home, tmp_path):
    assert "no folder" in error_of(tmp_path / "none")
    assert "cannot be opened" in error_of(home)
    message = error_of(tmp_path / "cache", dataset="somebody/none-such-set")
    assert "somebody/none-such-set" in message and "--data.download true" in message
    assert "--data.options.dataset" in error_of(None)
