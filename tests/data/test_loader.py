import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from regard import data
from regard.cli import main
from regard.data.dataset import ImageDataset
from regard.errors import InputError


@pytest.fixture
def masks(tmp_path, write_image, write_mask):
    """Eleven images of different sizes with masks, in two classes."""
    for i in range(11):
        size = (20 + i, 31 - i)
        write_image(tmp_path / "images" / "ab"[i % 2] / f"{i:02}.png", size, seed=i)
        mask = np.random.default_rng(i).random(size[::-1]) > 0.6
        write_mask(tmp_path / "masks" / "ab"[i % 2] / f"{i:02}.png", mask)
    return tmp_path


BORDER = data.Transform((16, 24), 0.9, "border", fill=(9, 8, 7))


def loader(source, size=4, transform=BORDER, **options):
    images = source if isinstance(source, ImageDataset) else data.open_regions(source)
    defaults = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "masks": True}
    return data.create_loader(images, size, transform=transform, **{**defaults, **options})


def batches(source, size=4, **options):
    return list(loader(source, size, **options).epoch(0))


def test_batches_are_in_order_with_labels_masks_and_indices(masks):
    images = data.open_regions(masks)
    epoch = batches(images)
    assert [len(batch.index) for batch in epoch] == [4, 4, 3] == [batch.total for batch in epoch]
    assert torch.cat([batch.index for batch in epoch]).tolist() == list(range(11))
    for batch in epoch:
        assert (batch.images.dtype, batch.labels.dtype, batch.masks.dtype) == (torch.float32, torch.int64, torch.bool)
        assert batch.images.shape[1:] == (3, 16, 24) and batch.masks.shape[1:] == (16, 24) and batch.skipped == ()
        pixels = data.denormalised(batch.images, (0.0,) * 3, (1.0,) * 3)
        for picture, label, mask, index in zip(pixels, batch.labels, batch.masks, batch.index, strict=True):
            assert torch.equal(picture, BORDER.image(images.image(index)))
            assert np.array_equal(mask, BORDER.mask(images.mask(index))) and label == images.labels[index]
    assert all(batch.masks is None for batch in batches(images, masks=False))


def test_denormalised_restores_the_bytes(masks):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    plain, normalised = batches(masks)[0].images, batches(masks, mean=mean, std=std)[0].images
    assert torch.equal(data.denormalised(normalised, mean, std), data.denormalised(plain, (0.0,) * 3, (1.0,) * 3))


def test_subsets_may_repeat_and_reorder_images(masks):
    images = data.open_regions(masks)
    epoch = batches(images.subset([7, 0, 7, 3]), size=3)
    assert [batch.index.tolist() for batch in epoch] == [[0, 1, 2], [3]]
    assert torch.equal(epoch[0].images[0], epoch[0].images[2])
    assert torch.equal(epoch[0].images[1], batches(images)[0].images[0])


def test_batches_do_not_depend_on_workers(masks):
    (masks / "images" / "a" / "04.png").write_text("not an image")
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for plain, parallel in zip(
        batches(masks, unreadable="skip", size=2),
        batches(masks, unreadable="skip", size=2, workers=3),
        strict=True,
    ):
        assert plain.skipped == parallel.skipped
        assert all(torch.equal(plain[i], parallel[i]) for i in (0, 1, 2, 4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_one_line(masks, workers):
    (masks / "images" / "b" / "09.png").write_text("not an image")
    (masks / "images" / "a" / "10.png").write_text("not an image")
    with pytest.raises(InputError) as caught:
        batches(masks, workers=workers, size=2)
    message = str(caught.value)
    assert "a/10.png' is not an image" in message and "--unreadable skip" in message and "\n" not in message


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_carry_the_traceback_as_a_note(masks, workers):
    (masks / "images" / "b" / "09.png").write_text("not an image")
    with pytest.raises(InputError) as caught:
        batches(masks, workers=workers)
    (note,) = caught.value.__notes__
    assert note.startswith("Traceback") and "UnidentifiedImageError" in note and "Traceback" not in str(caught.value)


def test_batches_before_an_unreadable_image_are_yielded(masks):
    (masks / "images" / "b" / "09.png").write_text("not an image")
    stream = loader(masks, 2).epoch(0)
    assert next(stream).index.tolist() == [0, 1]


def test_skipped_images_are_listed_with_their_batch(masks):
    images = data.open_regions(masks)
    for index in (0, 1, 5, 9, 10):
        (masks / "images" / images.keys[index]).write_text("not an image")
    (masks / "masks" / images.keys[4]).write_text("no mask")
    epoch = batches(images, size=2, unreadable="skip")
    assert [batch.index.tolist() for batch in epoch] == [[], [2, 3], [], [6, 7], [8], []]
    skipped = [[reason.partition(": ")[0] for reason in batch.skipped] for batch in epoch]
    assert skipped == [["a/00.png", "a/02.png"], [], ["a/08.png", "a/10.png"], [], ["b/07.png"], ["b/09.png"]]
    assert "masks/a/08.png' is not an image" in epoch[2].skipped[0]
    assert epoch[0].images.shape[:2] == (0, 3) and len(epoch[0].masks) == 0


def test_a_data_set_without_readable_images_is_refused(masks):
    for file in (masks / "images").rglob("*.png"):
        file.write_text("not an image")
    epoch = batches(masks, unreadable="skip")
    assert [len(batch.images) for batch in epoch] == [0, 0, 0] and sum(len(batch.skipped) for batch in epoch) == 11
    with pytest.raises(InputError, match="not one of the 11 images can be read"):
        batches(masks, unreadable="skip", shuffle=True)


def test_only_images_of_different_sizes_need_a_transform(masks, write_image, write_mask):
    with pytest.raises(InputError) as caught:
        batches(masks, transform=None)
    assert "'a/02.png' has 22 x 29 pixels, 'a/00.png' 20 x 31; give one size for all" in str(caught.value)
    assert batches(data.open_regions(masks).subset([3]), transform=None)[0].images.shape == (1, 3, 25, 26)


def test_an_image_too_long_for_the_transform_is_unreadable(masks, write_image, write_mask):
    write_image(masks / "images" / "a" / "00.png", (40_000, 1))
    write_mask(masks / "masks" / "a" / "00.png", np.ones((1, 40_000), dtype=bool))
    with pytest.raises(InputError, match=r"'a/00.png' cannot be fitted: an image of 40000 x 1"):
        batches(masks, transform=data.Transform((224, 224)))
    assert (
        batches(masks, transform=data.Transform((224, 224)), unreadable="skip")[0].skipped[0].startswith("a/00.png: ")
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"size": 0}, "batch size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"unreadable": "ignore"}, "unreadable is 'ignore'"),
        ({"mean": None}, "has no mean and std"),
        ({"seed": -1, "shuffle": True}, "seed -1"),
    ],
)
def test_invalid_arguments_are_refused_immediately(masks, options, expected):
    with pytest.raises(InputError, match=expected):
        loader(masks, **options)


def test_data_sets_without_regions_have_no_masks(masks):
    epoch = batches(data.open_regions(f"folder:{masks / 'images'}"))
    assert len(epoch) == 3 and all(batch.masks is None for batch in epoch)


def test_images_are_read_lazily():
    class Long(ImageDataset):
        name, split, classes, fingerprint = "long", "", (), lambda _: "x"
        keys = tuple(map(str, range(100_000)))
        labels = torch.full((100_000,), -1)
        reads = 0

        def image(self, index):
            self.reads += 1
            return Image.new("RGB", (4, 4))

        def mask(self, index):
            return np.zeros((4, 4), dtype=bool)

    images = Long()
    next(loader(images, 10, transform=None).epoch(0))
    assert images.reads == 10


def test_a_mask_of_another_size_than_its_image_is_unreadable():
    class Odd(ImageDataset):
        name, split, classes, fingerprint, keys, labels = "odd", "", (), lambda _: "x", ("k",), torch.tensor([-1])

        def image(self, index):
            return Image.new("RGB", (4, 5))

        def mask(self, index):
            return np.zeros((4, 5), dtype=bool)

    with pytest.raises(InputError, match="'k' has 4 x 5 pixels, its mask 5 x 4"):
        batches(Odd(), transform=None)


def test_data_sets_in_memory_and_streamed_give_the_same_batches():
    pixels = torch.randint(0, 256, (5, 3, 6, 7), dtype=torch.uint8)
    labels, regions = torch.zeros(5, dtype=torch.int64), torch.rand(5, 6, 7) > 0.5
    test = data.InMemoryDataset(pixels, labels, ("a",), "own", "test", (0.5,) * 3, (0.2,) * 3, regions)

    class Streamed(ImageDataset):
        name, split, classes, keys, labels = test.name, test.split, test.classes, test.keys, test.labels
        image, mask, fingerprint = test.image, test.mask, test.fingerprint

    for one, other in zip(batches(test, 2), batches(Streamed(), 2, transform=None), strict=True):
        assert all(torch.equal(one[i], other[i]) for i in (0, 1, 2, 4)) and one.total == other.total


def test_creating_a_loader_does_not_compute_the_fingerprint():
    """The fingerprint of a data set in memory reads all its bytes."""
    test = data.clutter(train=10, test=20).test
    with mock.patch.object(data.InMemoryDataset, "fingerprint") as fingerprint:
        batches(test), batches(test.subset([1, 2]))
    assert not fingerprint.called


def test_a_worker_killed_between_batches_is_one_line(capsys):
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    with mock.patch("regard.cli.recipes.main", side_effect=killed):
        assert main(["recipes"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "DataLoader worker (pid 7) is killed" in line and "fewer workers" in line


@pytest.mark.parametrize("shuffle", [False, True])
def test_two_concurrent_epochs_of_one_loader_are_refused(masks, shuffle):
    batches = loader(masks, 1, workers=1, masks=False, shuffle=shuffle)
    first, second = batches.epoch(0), batches.epoch(1)
    next(first), next(second)
    with pytest.raises(InputError, match="two epochs of one loader"):
        list(first)
    assert len(list(second)) == 10


def test_closing_an_epoch_ends_the_workers(masks):
    before = set(multiprocessing.active_children())  # workers of a failed loader may take a while to exit
    stream = loader(masks, 1, workers=2).epoch(0)
    next(stream)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    stream.close()
    assert not workers & set(multiprocessing.active_children())


@pytest.mark.slow
def test_ctrl_c_ends_all_processes(masks):
    """Workers print nothing, and no process is left."""
    code = textwrap.dedent(
        f"""
        import signal, sys, time, torch
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without one
        torch.set_num_threads(1)
        from regard import data
        images = data.open_regions({str(masks)!r}).subset(list(range(11)) * 10_000)
        options = dict(transform=data.Transform((16, 16)), mean=(0.5,) * 3, std=(0.5,) * 3, workers=2)
        try:
            for batch in data.create_loader(images, 1, **options).epoch(0):
                print("batch", flush=True)
                time.sleep(0.01)
        except KeyboardInterrupt:
            sys.exit(130)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert [process.stdout.readline() for _ in range(9)] == ["batch\n"] * 9  # both workers have started
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 130 and errors == ""
        with pytest.raises(ProcessLookupError):  # the group is empty
            os.killpg(process.pid, 0)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
