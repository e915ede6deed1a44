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
def made(tmp_path, write_image):
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


def test_what_is_found(made):
    train, test = load(made)
    assert (len(train), len(test), train.classes) == (23, 11, ("ab", "b", "c d"))
    assert (train.name, train.split, test.split, train.skipped) == ("files", "train", "test", ())
    assert train.keys[0] == "ab/00.JPEG" and train.labels.tolist() == sorted([i % 3 for i in range(23)])
    (made / "train" / "b" / "._04.JPEG").write_text("hidden")
    (made / "train" / "b" / "readme.txt").write_text("none")
    assert len(load(made).train) == 23


def test_images_in_folders_within_class_folders_belong_to_the_class(made):
    (made / "train" / "ab" / "b").mkdir()
    (made / "train" / "ab" / "00.JPEG").rename(made / "train" / "ab" / "b" / "00.JPEG")
    train = load(made).train
    names = [train.keys[i] for i in range(23)]
    assert names[:8] == [f"ab/{i:02}.JPEG" for i in range(3, 23, 3)] + ["ab/b/00.JPEG"]
    assert train.labels.tolist() == sorted([i % 3 for i in range(23)])


def test_testing_is_what_timm_does(made):
    test = load(made).test
    transform = create_transform(
        SIZE, is_training=False, crop_pct=0.9, interpolation="bicubic", mean=test.mean, std=test.std
    )
    batches = list(streamed(test, 4, crop_pct=0.9, interpolation="bicubic").epoch(0))
    assert [len(batch.labels) for batch in batches] == [4, 4, 3] == [batch.total for batch in batches]
    for i in range(11):
        batch = batches[i // 4]
        expected = transform(Image.open(made / "val" / test.keys[i]))
        assert torch.allclose(batch.images[i % 4], expected, atol=1e-5) and batch.index[i % 4] == i
        assert batch.labels[i % 4] == test.labels[i]


def test_turned_images_and_those_of_other_kinds_are_upright_rgb(made, write_image):
    shown = np.zeros((24, 16, 3), dtype=np.uint8)
    shown[:12] = 255
    folder = made / "val" / "ab"
    write_image(folder / "00.png", pixels=np.rot90(shown).copy(), orientation=6)
    Image.fromarray(np.full((20, 20), 40_000, dtype=np.uint16)).save(folder / "01.png")
    test = load(made).test
    images = next(streamed(test, 3, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_pct=1.0).epoch(0)).images
    names = [test.keys[i] for i in range(3)]
    turned, grey = images[names.index("ab/00.png")], images[names.index("ab/01.png")]
    assert turned[:, :7].min() == 1 and turned[:, 9:].max() == 0
    assert torch.allclose(grey, torch.tensor(40_000 / 256 / 255), atol=0.01)


def test_workers_change_nothing(made):
    batches = training(made, workers=2)
    for epoch in (0, 2):  # by the same processes
        assert same(list(training(made).epoch(epoch)), list(batches.epoch(epoch)))
    next(batches.epoch(0))  # left in the middle
    assert same(list(training(made).epoch(1, 1)), list(batches.epoch(1, 1)))


def test_order_and_variation_are_as_of_sets_held_whole(made):
    seen = [torch.cat([batch.index for batch in training(made).epoch(epoch)]).tolist() for epoch in (0, 0, 1)]
    assert sorted(seen[0]) == list(range(23)) and seen[0] == seen[1] != seen[2]
    other = next(training(made, seed=2).epoch(0)).index.tolist()
    assert other != seen[0][:8]


@pytest.mark.parametrize("count", [2, 3])
def test_testing_sees_every_image_once(made, count):
    test = load(made).test
    loaders = [streamed(test, 5, rank=rank, world_size=count) for rank in range(count)]
    index = [batch.index for loader in loaders for batch in loader.epoch(0)]
    assert sorted(torch.cat(index).tolist()) == list(range(11))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_files_that_cannot_be_read(made, workers):
    broken = [made / "train" / "b" / "04.JPEG", made / "train" / "b" / "07.JPEG", made / "val" / "ab" / "03.JPEG"]
    for path, content in zip(broken, (b"", b"no image", broken[2].read_bytes()[:200]), strict=True):
        path.write_bytes(content)
    message = error_of(training, made, workers=workers)
    assert "train/b/0" in message and "--data.unreadable skip" in message
    batches = training(made, workers=workers, unreadable="skip")
    epoch = list(batches.epoch(0))
    index = torch.cat([batch.index for batch in epoch]).tolist()
    places = {key: i for i, key in enumerate(batches.dataset.keys)}
    assert len(index) == 23 and not {places["b/04.JPEG"], places["b/07.JPEG"]} & set(index)
    assert index.count(places["b/10.JPEG"]) == 3  # in place of both
    assert same(epoch[1:], list(training(made, workers=workers, unreadable="skip").epoch(0, 1)))
    skipped = skipped_in([*epoch, *batches.epoch(1)])
    assert len(skipped) == 2
    assert "04.JPEG' is empty" in " ".join(skipped) and "07.JPEG' is not an image" in " ".join(skipped)
    test = list(streamed(load(made).test, 4, unreadable="skip", workers=workers).epoch(0))
    assert sum(len(batch.labels) for batch in test) == 10
    (reason,) = skipped_in(test)
    assert reason.startswith("ab/03.JPEG: ") and "03.JPEG' is broken" in reason


def test_a_file_that_is_gone(made):
    train = load(made).train
    (made / "train" / "ab" / "00.JPEG").unlink()
    message = error_of(lambda: streamed(train, 4))
    assert "00.JPEG' cannot be opened (No such file or directory)" in message


def test_not_one_can_be_read(made):
    for path in made.rglob("*.JPEG"):
        path.write_text("no image")
    assert "not one of the 23 images can be read" in error_of(training, made, unreadable="skip")
    test = streamed(load(made).test, 4, unreadable="skip")
    batches = list(test.epoch(0))
    assert [len(batch.images) for batch in batches] == [0, 0, 0] and len(skipped_in(batches)) == 11
    assert "none of the 11 test images" in error_of(lambda: evaluate(torch.nn.Flatten(), test))


def test_a_worker_that_dies_is_one_line(made, monkeypatch):
    def die(self, image, epoch, position):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("regard.data.transforms.SeededTransform.__call__", die)
    message = error_of(training, made, workers=2)
    assert "a DataLoader worker died" in message and "--data.workers" in message


def test_workers_leave_the_end_to_the_first_process(made):
    batches = training(made, 1, workers=2).epoch(0)
    next(batches), next(batches)  # one of each process: before, it may still be at its beginning
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGTERM)
    assert len(list(batches)) == 21


def test_processes_end_as_soon_as_nobody_reads(made):
    """Without the collector of circles: that would take the queues away first, through which they are told to end."""
    before = set(multiprocessing.active_children())
    gc.disable()
    try:
        batches = training(made, 4, workers=2)
        assert len(list(batches.epoch(0))) == 6
        processes = set(multiprocessing.active_children()) - before
        assert len(processes) == 2
        del batches
        # By themselves, so with status 0: torch ends those with a signal that do not.
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        gc.enable()


def test_global_random_numbers_are_left_alone(made):
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    list(training(made).epoch(0))
    list(training(made, workers=1).epoch(0))
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_erasing(made):

    def first(**fields):
        varied = data.Augmentation(**fields)
        return next(training(made, 23, varied, mean=(0.5, 0.25, 0.75), std=(0.2, 0.2, 0.2)).epoch(0)).images

    plain, erased = first(), first(erasing=1.0)
    changed = (plain != erased).any(1)
    assert 0.01 < changed.float().mean() < 0.4 and changed.flatten(1).any(1).all()
    assert erased.permute(0, 2, 3, 1)[changed].abs().max() < 0.02  # the mean colour, to a byte
    for mode in ("rand", "pixel"):
        other = first(erasing=1.0, erasing_mode=mode)
        assert ((other == plain).all(1) == ~changed).float().mean() > 0.99


def test_a_part_of_the_set(made):
    train = load(made).train
    part = train.subset(6)
    assert len(part) == 6 and np.bincount(part.labels).tolist() == [2, 2, 2]
    again = part.subset([3, 0])
    batch = next(streamed(again, 2).epoch(0))
    assert [again.keys[i] for i in range(2)] == [part.keys[3], part.keys[0]]
    assert batch.labels.tolist() == part.labels[[3, 0]].tolist()
    assert "give a number from 1 to 23" in error_of(train.subset, 24)


def test_the_image_that_a_step_saw(made):
    loader = training(made, workers=2)
    whole = list(loader.epoch(3))
    for position in (0, 9, 22):
        batch, row = whole[position // 8], position % 8
        one = loader.sample(3, position)
        assert torch.equal(one.images[0], batch.images[row]) and one.index[0] == batch.index[row]
        assert one.labels[0] == batch.labels[row]
    assert "position 23 does not exist" in error_of(loader.sample, 3, 23)


def test_an_image_by_its_position_while_an_epoch_is_read(made):
    loader = training(made, workers=2)
    whole = [batch.images for batch in loader.epoch(0)]
    assert torch.equal(loader.sample(0, 9).images[0], whole[1][1])
    seen = [(batch.images, loader.sample(0, 9).images[0]) for batch in loader.epoch(0)]
    assert all(
        torch.equal(images, batch) and torch.equal(one, whole[1][1])
        for (images, one), batch in zip(seen, whole, strict=True)
    )


def test_in_order_a_position_is_that_of_the_set_also_after_an_image_that_is_skipped(made):
    test = load(made).test
    (made / "val" / test.keys[1]).write_bytes(b"none")
    loader = streamed(test, 4, unreadable="skip")
    ((message, images),) = [(batch.skipped, batch.images) for batch in loader.epoch(0, 0) if batch.skipped]
    assert torch.equal(loader.sample(0, 2).images[0], images[1])
    assert loader.sample(0, 3).index.tolist() == [3]
    one = loader.sample(0, 1)
    assert not len(one.images) and one.skipped == message


def test_workers_of_a_test_end_with_it_and_those_of_training_stay(made):
    before = set(multiprocessing.active_children())
    train, test = training(made, workers=1), streamed(load(made).test, 4, workers=2)
    list(train.epoch(0))
    (own,) = set(multiprocessing.active_children()) - before
    list(test.epoch(0))
    assert set(multiprocessing.active_children()) - before == {own}
    list(train.epoch(1))
    assert set(multiprocessing.active_children()) - before == {own}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "val").rename(root / "other"), "none of the folders test, val"),
        (lambda root: (root / "train").rename(root / "other"), "no folder"),
        (lambda root: (root / "val" / "b").rename(root / "val" / "e"), "missing 'b', unexpected 'e'"),
        (lambda root: (root / "train" / "empty").mkdir(), "no images in folder"),
    ],
)
def test_wrong_folders(made, spoil, said):
    spoil(made)
    assert said in error_of(load, made)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"crop_pct": 0}, "crop_pct"),
        ({"interpolation": "bi"}, "interpolation"),
        ({"workers": -1}, "workers is -1"),
        ({"unreadable": "maybe"}, "unreadable is 'maybe'"),
        ({"batch_size": 0}, "batch size is 0"),
    ],
)
def test_wrong_options(made, options, said):
    assert said in error_of(streamed, load(made).train, **{"batch_size": 4, **options})
    assert "lanes" in error_of(data.load, "files", made, lanes=2)


def test_augmentations_of_sets_in_memory_are_refused(made):
    for fields in ({"padding": 4}, {"crop": 8}, {"padding_mode": "zero"}):
        message = error_of(training, made, augmentation=data.Augmentation(**fields))
        assert next(iter(fields)) in message and "in memory" in message
    assert len(training(made, augmentation=data.Augmentation(padding=0))) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_on_a_gpu(made, workers):
    here, there = (list(training(made, 5, workers=workers, device=device).epoch(0)) for device in ("cpu", "cuda"))
    for one, other in zip(here, there, strict=True):
        assert other.images.is_cuda and torch.equal(one.images, other.images.cpu())
        assert torch.equal(one.labels, other.labels.cpu()) and torch.equal(one.index, other.index.cpu())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_one_stream_of_the_gpu_for_all_epochs(made, monkeypatch):
    with monkeypatch.context() as patched:
        stream = mock.Mock(side_effect=torch.cuda.Stream)
        patched.setattr(torch.cuda, "Stream", stream)
        loader = training(made, device="cuda")
        for epoch in range(3):
            assert sum(len(batch.images) for batch in loader.epoch(epoch)) == 23
    assert stream.call_count == 1
