"""Image files in class folders, streamed in training."""

import gc
import multiprocessing
import os
import random
import signal
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from support.loaders import error_of, same, skipped_in, streamed
from timm.data import create_transform

from regard import data
from regard.training import evaluate

SIZE = 16
VARIED = data.Augmentation(policy="rand-m7-mstd0.5-inc1", erasing=0.5, erasing_mode="pixel", interpolation="random")


@pytest.fixture
def root(tmp_path, write_image):
    """23 images to train on, 11 to test on, in three classes."""
    for split, count in (("train", 23), ("val", 11)):
        for i in range(count):
            path = tmp_path / split / ("ab", "b", "c d")[i % 3] / f"{i:02}.JPEG"
            write_image(path, (20 + i % 7, 30 - i % 5), seed=i, quality=90)
    return tmp_path


def load(folder, **options):
    return data.load("files", folder, **options)


def training(folder, batch_size=8, augmentation=VARIED, seed=1, **options):
    return streamed(load(folder).train, batch_size, augmentation=augmentation, shuffle=True, seed=seed, **options)


def test_images_classes_and_labels_are_listed(root):
    train, test = load(root)
    assert (len(train), len(test), train.classes) == (23, 11, ("ab", "b", "c d"))
    assert (train.name, train.split, test.split, train.skipped) == ("files", "train", "test", ())
    assert train.keys[0] == "ab/00.JPEG" and train.labels.tolist() == sorted([i % 3 for i in range(23)])
    (root / "train" / "b" / "._04.JPEG").write_text("hidden")
    (root / "train" / "b" / "readme.txt").write_text("none")
    assert len(load(root).train) == 23


def test_images_in_subfolders_belong_to_the_class_folder(root):
    (root / "train" / "ab" / "b").mkdir()
    (root / "train" / "ab" / "00.JPEG").rename(root / "train" / "ab" / "b" / "00.JPEG")
    train = load(root).train
    names = [train.keys[i] for i in range(23)]
    assert names[:8] == [f"ab/{i:02}.JPEG" for i in range(3, 23, 3)] + ["ab/b/00.JPEG"]
    assert train.labels.tolist() == sorted([i % 3 for i in range(23)])


def test_evaluation_preprocessing_matches_timm(root):
    test = load(root).test
    transform = create_transform(
        SIZE, is_training=False, crop_pct=0.9, interpolation="bicubic", mean=test.mean, std=test.std
    )
    batches = list(streamed(test, 4, crop_pct=0.9, interpolation="bicubic").epoch(0))
    assert [len(batch.labels) for batch in batches] == [4, 4, 3] == [batch.total for batch in batches]
    for i in range(11):
        batch = batches[i // 4]
        expected = transform(Image.open(root / "val" / test.keys[i]))
        assert torch.allclose(batch.images[i % 4], expected, atol=1e-5) and batch.index[i % 4] == i
        assert batch.labels[i % 4] == test.labels[i]


def test_rotated_and_grey_images_become_upright_rgb(root, write_image):
    pixels = np.zeros((24, 16, 3), dtype=np.uint8)
    pixels[:12] = 255
    folder = root / "val" / "ab"
    write_image(folder / "00.png", pixels=np.rot90(pixels).copy(), orientation=6)
    Image.fromarray(np.full((20, 20), 40_000, dtype=np.uint16)).save(folder / "01.png")
    test = load(root).test
    images = next(streamed(test, 3, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_pct=1.0).epoch(0)).images
    names = [test.keys[i] for i in range(3)]
    rotated, grey = images[names.index("ab/00.png")], images[names.index("ab/01.png")]
    assert rotated[:, :7].min() == 1 and rotated[:, 9:].max() == 0
    assert torch.allclose(grey, torch.tensor(40_000 / 256 / 255), atol=0.01)


def test_batches_do_not_depend_on_workers(root):
    batches = training(root, workers=2)
    for epoch in (0, 2):  # with the same workers
        assert same(list(training(root).epoch(epoch)), list(batches.epoch(epoch)))
    next(batches.epoch(0))  # abandoned after one batch
    assert same(list(training(root).epoch(1, 1)), list(batches.epoch(1, 1)))


def test_the_order_depends_on_seed_and_epoch(root):
    orders = [torch.cat([batch.index for batch in training(root).epoch(epoch)]).tolist() for epoch in (0, 0, 1)]
    assert sorted(orders[0]) == list(range(23)) and orders[0] == orders[1] != orders[2]
    other = next(training(root, seed=2).epoch(0)).index.tolist()
    assert other != orders[0][:8]


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_together_test_every_image_once(root, count):
    test = load(root).test
    loaders = [streamed(test, 5, rank=rank, world_size=count) for rank in range(count)]
    index = [batch.index for loader in loaders for batch in loader.epoch(0)]
    assert sorted(torch.cat(index).tolist()) == list(range(11))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_unreadable_files_are_named_or_replaced(root, workers):
    broken = [root / "train" / "b" / "04.JPEG", root / "train" / "b" / "07.JPEG", root / "val" / "ab" / "03.JPEG"]
    for path, content in zip(broken, (b"", b"no image", broken[2].read_bytes()[:200]), strict=True):
        path.write_bytes(content)
    message = error_of(training, root, workers=workers)
    assert "train/b/0" in message and "--data.unreadable skip" in message
    batches = training(root, workers=workers, unreadable="skip")
    epoch = list(batches.epoch(0))
    index = torch.cat([batch.index for batch in epoch]).tolist()
    positions = {key: i for i, key in enumerate(batches.dataset.keys)}
    assert len(index) == 23 and not {positions["b/04.JPEG"], positions["b/07.JPEG"]} & set(index)
    assert index.count(positions["b/10.JPEG"]) == 3  # replaces both
    assert same(epoch[1:], list(training(root, workers=workers, unreadable="skip").epoch(0, 1)))
    skipped = skipped_in([*epoch, *batches.epoch(1)])
    assert len(skipped) == 2
    assert "04.JPEG' is empty" in " ".join(skipped) and "07.JPEG' is not an image" in " ".join(skipped)
    test = list(streamed(load(root).test, 4, unreadable="skip", workers=workers).epoch(0))
    assert sum(len(batch.labels) for batch in test) == 10
    (reason,) = skipped_in(test)
    assert reason.startswith("ab/03.JPEG: ") and "03.JPEG' is broken" in reason


def test_a_deleted_file_is_named(root):
    train = load(root).train
    (root / "train" / "ab" / "00.JPEG").unlink()
    message = error_of(lambda: streamed(train, 4))
    assert "00.JPEG' cannot be opened (No such file or directory)" in message


def test_a_data_set_without_readable_images_is_refused(root):
    for path in root.rglob("*.JPEG"):
        path.write_text("no image")
    assert "not one of the 23 images can be read" in error_of(training, root, unreadable="skip")
    test = streamed(load(root).test, 4, unreadable="skip")
    batches = list(test.epoch(0))
    assert [len(batch.images) for batch in batches] == [0, 0, 0] and len(skipped_in(batches)) == 11
    assert "none of the 11 test images" in error_of(lambda: evaluate(torch.nn.Flatten(), test))


def test_a_killed_worker_is_one_line(root, monkeypatch):
    def die(self, image, epoch, position):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("regard.data.transforms.SeededTransform.__call__", die)
    message = error_of(training, root, workers=2)
    assert "a DataLoader worker died" in message and "--data.workers" in message


def test_workers_ignore_interrupts(root):
    batches = training(root, 1, workers=2).epoch(0)
    next(batches), next(batches)  # one batch of each worker, so that both have started
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGTERM)
    assert len(list(batches)) == 21


def test_workers_exit_when_the_loader_is_deleted(root):
    """Without the garbage collector, which would first delete the queues that tell workers to exit."""
    before = set(multiprocessing.active_children())
    gc.disable()
    try:
        batches = training(root, 4, workers=2)
        assert len(list(batches.epoch(0))) == 6
        processes = set(multiprocessing.active_children()) - before
        assert len(processes) == 2
        del batches
        # Status 0: they exited by themselves; torch kills workers that do not.
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        gc.enable()


def test_global_random_states_are_unchanged(root):
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    list(training(root).epoch(0))
    list(training(root, workers=1).epoch(0))
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_erasing_fills_boxes_in_every_mode(root):

    def first(**fields):
        augmentation = data.Augmentation(**fields)
        return next(training(root, 23, augmentation, mean=(0.5, 0.25, 0.75), std=(0.2, 0.2, 0.2)).epoch(0)).images

    plain, erased = first(), first(erasing=1.0)
    changed = (plain != erased).any(1)
    assert 0.01 < changed.float().mean() < 0.4 and changed.flatten(1).any(1).all()
    assert erased.permute(0, 2, 3, 1)[changed].abs().max() < 0.02  # the mean colour, to a byte
    for mode in ("rand", "pixel"):
        other = first(erasing=1.0, erasing_mode=mode)
        assert ((other == plain).all(1) == ~changed).float().mean() > 0.99


def test_subsets_are_balanced_and_can_be_nested(root):
    train = load(root).train
    part = train.subset(6)
    assert len(part) == 6 and np.bincount(part.labels).tolist() == [2, 2, 2]
    nested = part.subset([3, 0])
    batch = next(streamed(nested, 2).epoch(0))
    assert [nested.keys[i] for i in range(2)] == [part.keys[3], part.keys[0]]
    assert batch.labels.tolist() == part.labels[[3, 0]].tolist()
    assert "give a number from 1 to 23" in error_of(train.subset, 24)


def test_sample_returns_the_image_at_a_position_of_an_epoch(root):
    loader = training(root, workers=2)
    batches = list(loader.epoch(3))
    for position in (0, 9, 22):
        batch, row = batches[position // 8], position % 8
        sample = loader.sample(3, position)
        assert torch.equal(sample.images[0], batch.images[row]) and sample.index[0] == batch.index[row]
        assert sample.labels[0] == batch.labels[row]
    assert "position 23 does not exist" in error_of(loader.sample, 3, 23)


def test_sample_works_while_an_epoch_is_read(root):
    loader = training(root, workers=2)
    batches = [batch.images for batch in loader.epoch(0)]
    assert torch.equal(loader.sample(0, 9).images[0], batches[1][1])
    pairs = [(batch.images, loader.sample(0, 9).images[0]) for batch in loader.epoch(0)]
    assert all(
        torch.equal(images, batch) and torch.equal(sample, batches[1][1])
        for (images, sample), batch in zip(pairs, batches, strict=True)
    )


def test_sample_positions_count_skipped_images_without_shuffling(root):
    test = load(root).test
    (root / "val" / test.keys[1]).write_bytes(b"none")
    loader = streamed(test, 4, unreadable="skip")
    ((message, images),) = [(batch.skipped, batch.images) for batch in loader.epoch(0, 0) if batch.skipped]
    assert torch.equal(loader.sample(0, 2).images[0], images[1])
    assert loader.sample(0, 3).index.tolist() == [3]
    sample = loader.sample(0, 1)
    assert not len(sample.images) and sample.skipped == message


def test_evaluation_workers_exit_and_training_workers_persist(root):
    before = set(multiprocessing.active_children())
    train, test = training(root, workers=1), streamed(load(root).test, 4, workers=2)
    list(train.epoch(0))
    (worker,) = set(multiprocessing.active_children()) - before
    list(test.epoch(0))
    assert set(multiprocessing.active_children()) - before == {worker}
    list(train.epoch(1))
    assert set(multiprocessing.active_children()) - before == {worker}


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda root: (root / "val").rename(root / "other"), "none of the folders test, val"),
        (lambda root: (root / "train").rename(root / "other"), "no folder"),
        (lambda root: (root / "val" / "b").rename(root / "val" / "e"), "missing 'b', unexpected 'e'"),
        (lambda root: (root / "train" / "empty").mkdir(), "no images in folder"),
    ],
)
def test_invalid_folders_are_refused(root, damage, expected):
    damage(root)
    assert expected in error_of(load, root)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"crop_pct": 0}, "crop_pct"),
        ({"interpolation": "bi"}, "interpolation"),
        ({"workers": -1}, "workers is -1"),
        ({"unreadable": "maybe"}, "unreadable is 'maybe'"),
        ({"batch_size": 0}, "batch size is 0"),
    ],
)
def test_invalid_options_are_named(root, options, expected):
    assert expected in error_of(streamed, load(root).train, **{"batch_size": 4, **options})
    assert "lanes" in error_of(data.load, "files", root, lanes=2)


def test_augmentation_fields_for_sets_in_memory_are_refused(root):
    for fields in ({"padding": 4}, {"crop": 8}, {"padding_mode": "zero"}):
        message = error_of(training, root, augmentation=data.Augmentation(**fields))
        assert next(iter(fields)) in message and "in memory" in message
    assert len(training(root, augmentation=data.Augmentation(padding=0))) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_on_a_gpu(root, workers):
    on_cpu, on_gpu = (list(training(root, 5, workers=workers, device=device).epoch(0)) for device in ("cpu", "cuda"))
    for expected, batch in zip(on_cpu, on_gpu, strict=True):
        assert batch.images.is_cuda and torch.equal(expected.images, batch.images.cpu())
        assert torch.equal(expected.labels, batch.labels.cpu()) and torch.equal(expected.index, batch.index.cpu())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_all_epochs_share_one_cuda_stream(root, monkeypatch):
    with monkeypatch.context() as patched:
        stream = mock.Mock(side_effect=torch.cuda.Stream)
        patched.setattr(torch.cuda, "Stream", stream)
        loader = training(root, device="cuda")
        for epoch in range(3):
            assert sum(len(batch.images) for batch in loader.epoch(epoch)) == 23
    assert stream.call_count == 1
