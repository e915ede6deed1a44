import hashlib
import pickle
import urllib.error

import numpy as np
import pytest
import torch
from torchvision import datasets

from regard import data
from regard.errors import InputError


def error_of(*arguments, **options):
    with pytest.raises(InputError) as caught:
        data.load(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pixels(count, side, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def write(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return [name, hashlib.md5(content).hexdigest()]


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """A few images in the layout of CIFAR-10, with torchvision's checksums replaced."""
    folder = tmp_path / "cifar-10-batches-py"
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    entries = []
    for i, name in enumerate(names):
        batch = {"data": pixels(4, 32, i).reshape(4, -1), "labels": [i, 1, 2, 9]}
        entries.append(write(folder, name, pickle.dumps(batch)))
    kinds = [f"kind {i}" for i in range(10)]
    meta = write(folder, "batches.meta", pickle.dumps({"label_names": kinds}))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", entries[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", entries[5:])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return tmp_path


def test_names_lists_all_data_sets_sorted():
    assert {*data.names()} >= {
        "cifar10",
        "cifar100",
        "clutter",
        "coco",
        "cub",
        "files",
        "folder",
        "hfds",
        "imagenet",
        "masks",
        "pets",
        "scenes",
        "stl10",
        "voc",
        "wds",
    }
    assert data.names() == sorted(data.names())


def test_load_passes_options_to_clutter():
    splits = data.load("clutter", train=20, test=10, cue=0.5, seed=3)
    same = data.clutter(train=20, test=10, cue=0.5, seed=3)
    assert torch.equal(splits.train.images, same.train.images) and torch.equal(splits.test.regions, same.test.regions)


@pytest.mark.parametrize("inside", [False, True])
def test_cifar10_is_read_from_its_files(cifar10, inside):
    splits = data.load("cifar10", cifar10 / "cifar-10-batches-py" if inside else cifar10)
    assert splits.train.images.shape == (20, 3, 32, 32) and splits.test.images.shape == (4, 3, 32, 32)
    assert torch.equal(splits.test.images, torch.from_numpy(pixels(4, 32, 5)))
    assert splits.test.labels.tolist() == [5, 1, 2, 9] and splits.train.classes[3] == "kind 3"
    assert splits.train.mean == splits.test.mean == (0.4914, 0.4822, 0.4465)
    assert (splits.train.name, splits.train.split, splits.test.split) == ("cifar10", "train", "test")
    assert splits.train.images.is_contiguous()


def test_an_existing_cifar10_is_not_downloaded_again(cifar10):
    assert len(data.load("cifar10", cifar10, download=True).train) == 20


def test_stl10_is_read_from_its_files(tmp_path, monkeypatch):
    folder = tmp_path / "stl10_binary"
    images = pixels(3, 96, 0)
    stored = images.transpose(0, 1, 3, 2).tobytes()  # column by column
    train = [write(folder, "train_X.bin", stored), write(folder, "train_y.bin", bytes([1, 10, 5]))]
    test = [write(folder, "test_X.bin", stored[: 96 * 96 * 3]), write(folder, "test_y.bin", bytes([2]))]
    write(folder, "class_names.txt", "\n".join(f"kind {i}" for i in range(10)).encode())
    write(folder, "fold_indices.txt", b"0 1\n")
    monkeypatch.setattr(datasets.STL10, "train_list", train)
    monkeypatch.setattr(datasets.STL10, "test_list", test)
    splits = data.load("stl10", tmp_path)
    assert torch.equal(splits.train.images, torch.from_numpy(images))
    assert splits.train.labels.tolist() == [0, 9, 4] and splits.test.labels.tolist() == [1]
    assert splits.train.classes == tuple(f"kind {i}" for i in range(10))


@pytest.mark.parametrize(
    ("name", "title", "files"),
    [
        ("cifar10", "CIFAR-10", "cifar-10-batches-py"),
        ("cifar100", "CIFAR-100", "cifar-100-python"),
        ("stl10", "STL10", "stl10_binary"),
    ],
)
def test_a_missing_published_data_set_is_named(tmp_path, name, title, files):
    message = error_of(name, tmp_path)
    assert message.startswith(f"{title} not found under {str(tmp_path)!r}") and files in message
    assert "--data.folder" in message and "--data.download true" in message


def test_the_cache_is_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert str(tmp_path / "regard") in error_of("cifar100")


def test_a_corrupted_published_data_set_is_named(cifar10):
    (cifar10 / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"cut short")
    message = error_of("cifar10", cifar10)
    assert "incomplete or corrupted" in message and "cifar-10-batches-py" in message


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    def fail(self):
        raise urllib.error.URLError("no network\nhere")

    monkeypatch.setattr(datasets.CIFAR10, "download", fail)
    message = error_of("cifar10", tmp_path, download=True)
    assert "could not be downloaded" in message and "no network here" in message


def test_an_unknown_name_suggests_the_nearest():
    message = error_of("cifar-10")
    assert "did you mean 'cifar10'" in message and "clutter" in message


def test_unknown_options_are_named(tmp_path):
    assert "did you mean 'cue'" in error_of("clutter", cues=0.5)
    assert "'cifar10' has no options" in error_of("cifar10", tmp_path, cue=0.5)
    assert "known: memory_limit" in error_of("folder", tmp_path, cue=0.5)
    assert "leave size out" in error_of("clutter", size=32)


def test_clutter_takes_no_folder(tmp_path):
    assert "--data.name folder" in error_of("clutter", tmp_path)


@pytest.mark.filterwarnings("ignore:data set 'masks' has no splits")
def test_images_with_masks_need_classes_to_learn_from(tmp_path, write_image):
    for folder in ("images", "masks"):
        write_image(tmp_path / folder / "1.png")
        write_image(tmp_path / folder / "2.png")
    assert error_of("masks", tmp_path).endswith("put the images of each class into images/CLASS/")
