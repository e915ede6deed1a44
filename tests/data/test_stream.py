import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

from regard import data
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


FIT = data.Fit((16, 24), 0.9, "border", fill=(9, 8, 7))


def batches(where, indices=None, size=4, fit=FIT, **options):
    images = data.open_regions(where) if not isinstance(where, ImageDataset) else where
    return list(data.stream(images, fit, range(len(images)) if indices is None else indices, size, **options))


def test_batches_come_in_order_with_all_that_belongs_to_an_image(masks):
    images = data.open_regions(masks)
    found = batches(images)
    assert [len(batch.index) for batch in found] == [4, 4, 3]
    assert torch.cat([batch.index for batch in found]).tolist() == list(range(11))
    for batch in found:
        assert (batch.images.dtype, batch.labels.dtype, batch.regions.dtype) == (torch.uint8, torch.int64, torch.bool)
        assert batch.images.shape[1:] == (3, 16, 24) and batch.regions.shape[1:] == (16, 24) and batch.skipped == ()
        for picture, label, region, place in zip(batch.images, batch.labels, batch.regions, batch.index, strict=True):
            assert np.array_equal(picture.permute(1, 2, 0), FIT.image(images.image(place)))
            assert np.array_equal(region, FIT.region(images.mask(place))) and label == images.labels[place]
            shown, where = data.looked(images, FIT, int(place))
            assert np.array_equal(shown, picture.permute(1, 2, 0)) and np.array_equal(where, region)


def test_any_places_in_any_order(masks):
    found = batches(masks, [7, 0, 7, 3], size=3)
    assert [batch.index.tolist() for batch in found] == [[7, 0, 7], [3]]
    assert torch.equal(found[0].images[0], found[0].images[2])
    assert batches(masks, []) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(masks, workers):
    (masks / "images" / "a" / "04.png").write_text("not an image")
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for here, there in zip(
        batches(masks, unreadable="skip", size=2),
        batches(masks, unreadable="skip", size=2, workers=workers),
        strict=True,
    ):
        assert here.skipped == there.skipped
        assert all(torch.equal(a, b) for a, b in zip(here[:4], there[:4], strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_one_line(masks, workers):
    (masks / "images" / "b" / "09.png").write_text("not an image")
    (masks / "images" / "a" / "10.png").write_text("not an image")
    with pytest.raises(InputError) as caught:
        batches(masks, workers=workers, size=2)
    message = str(caught.value)
    assert "a/10.png' is not an image" in message and "--unreadable skip" in message and "\n" not in message


def test_what_comes_before_an_unreadable_image_comes(masks):
    (masks / "images" / "b" / "09.png").write_text("not an image")
    stream = data.stream(data.open_regions(masks), FIT, range(11), 2)
    assert next(stream).index.tolist() == [0, 1]


def test_skipped_images_are_listed_even_if_no_batch_follows(masks):
    images = data.open_regions(masks)
    for place in (0, 1, 5, 9, 10):
        (masks / "images" / images.keys[place]).write_text("not an image")
    (masks / "masks" / images.keys[4]).write_text("no mask")
    found = batches(images, size=2, unreadable="skip")
    assert [batch.index.tolist() for batch in found] == [[2, 3], [6, 7], [8]]
    assert [[place for place, _ in batch.skipped] for batch in found] == [[0, 1], [4, 5], [9, 10]]
    assert "masks/a/08.png' is not an image" in found[1].skipped[0][1]


def test_not_one_can_be_read(masks):
    for file in (masks / "images").rglob("*.png"):
        file.write_text("not an image")
    with pytest.raises(InputError, match="not one of the 11 images can be read"):
        batches(masks, unreadable="skip")


def test_images_of_one_size_need_no_fit_and_others_do(masks, write_image, write_mask):
    with pytest.raises(InputError) as caught:
        batches(masks, fit=data.Fit())
    assert "'a/02.png' has 22 x 29 pixels, 'a/00.png' 20 x 31; give one size for all" in str(caught.value)
    assert batches(masks, [3], fit=data.Fit())[0].images.shape == (1, 3, 25, 26)


def test_an_image_too_long_for_the_fit_is_unreadable(masks, write_image, write_mask):
    write_image(masks / "images" / "a" / "00.png", (40_000, 1))
    write_mask(masks / "masks" / "a" / "00.png", np.ones((1, 40_000), dtype=bool))
    with pytest.raises(InputError, match=r"'a/00.png' cannot be fitted: an image of 40000 x 1"):
        batches(masks, fit=data.Fit((224, 224)))
    assert batches(masks, fit=data.Fit((224, 224)), unreadable="skip")[0].skipped[0][0] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 0}, "batch size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"unreadable": "ignore"}, "unreadable is 'ignore'"),
        ({"indices": [3, 11]}, "places run from 3 to 11; expected 0 to 10"),
        ({"indices": [-1]}, "places run from -1"),
    ],
)
def test_wrong_arguments_are_found_at_once(masks, options, said):
    arguments = {"indices": range(11), "size": 4} | options
    with pytest.raises(InputError, match=said):
        data.stream(data.open_regions(masks), FIT, arguments.pop("indices"), arguments.pop("size"), **arguments)


def test_sets_without_regions(masks):
    found = batches(data.open_regions(f"folder:{masks / 'images'}"))
    assert len(found) == 3 and not any(batch.regions.any() for batch in found)
    assert found[0].regions.shape == (4, 16, 24)


def test_memory_does_not_grow_with_the_set():
    class Long(ImageDataset):
        name, split, classes, fingerprint = "long", "", (), "x"
        keys = tuple(map(str, range(100_000)))
        labels = np.full(100_000, -1)
        asked = 0

        def image(self, index):
            self.asked += 1
            return Image.new("RGB", (4, 4))

        def mask(self, index):
            return np.zeros((4, 4), dtype=bool)

    images = Long()
    stream = data.stream(images, data.Fit(), range(100_000), 10)
    next(stream)
    assert images.asked == 20  # one batch is held back


def test_a_region_that_does_not_fit_its_image_is_unreadable():
    class Odd(ImageDataset):
        name, split, classes, fingerprint, keys, labels = "odd", "", (), "x", ("k",), np.array([-1])

        def image(self, index):
            return Image.new("RGB", (4, 5))

        def mask(self, index):
            return np.zeros((4, 5), dtype=bool)

    with pytest.raises(data.Unreadable, match="'k' has 4 x 5 pixels, its region 5 x 4"):
        data.looked(Odd(), data.Fit(), 0)


def test_looked_takes_sets_in_memory():
    pixels = torch.randint(0, 256, (5, 3, 6, 7), dtype=torch.uint8)
    labels, regions = torch.zeros(5, dtype=torch.int64), torch.rand(5, 6, 7) > 0.5
    test = data.InMemoryDataset(pixels, labels, ("a",), "own", "test", (0.5,) * 3, (0.2,) * 3, regions)
    shown, region = data.looked(test, None, 3)
    assert torch.equal(torch.from_numpy(shown).permute(2, 0, 1), test.images[3])
    assert torch.equal(torch.from_numpy(region), test.regions[3])


def test_a_fit_and_a_batch_go_to_other_processes(masks):
    batch = batches(masks)[0]
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.images, batch.images) and pickle.loads(pickle.dumps(FIT)) == FIT


class Dying(ImageDataset):
    """Ends the process that reads its sixth image."""

    name, split, classes, fingerprint = "dying", "", (), "x"
    keys = tuple(map(str, range(40)))
    labels = np.full(40, -1)

    def image(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return Image.new("RGB", (4, 4))

    def mask(self, index):
        return np.zeros((4, 4), dtype=bool)


def test_a_worker_that_dies_is_one_line():
    with pytest.raises(InputError) as caught:
        batches(Dying(), size=2, fit=data.Fit(), workers=2)
    assert "a process that reads images ended" in str(caught.value) and "--workers" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_leaving_early_ends_the_workers(masks):
    before = set(multiprocessing.active_children())  # those of a loader that failed may take a while
    stream = data.stream(data.open_regions(masks), FIT, range(11), 1, workers=2)
    next(stream)
    own = set(multiprocessing.active_children()) - before
    assert len(own) == 2
    stream.close()
    assert not own & set(multiprocessing.active_children())


def test_workers_leave_ctrl_c_to_the_first_process(masks):
    """Which may want to finish what it is at."""
    stream = data.stream(data.open_regions(masks), FIT, list(range(11)) * 20, 1, workers=2)
    next(stream), next(stream), next(stream)
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGINT)
    assert sum(len(batch.index) for batch in stream) == 217


@pytest.mark.slow
def test_ctrl_c_ends_all_processes(masks):
    """The others say nothing about it, and no process is left."""
    code = textwrap.dedent(
        f"""
        import signal, sys, time, torch
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs behind without one
        torch.set_num_threads(1)
        from regard import data
        images = data.open_regions({str(masks)!r})
        try:
            for batch in data.stream(images, data.Fit((16, 16)), list(range(11)) * 10_000, 1, workers=2):
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
        assert [process.stdout.readline() for _ in range(9)] == ["batch\n"] * 9  # both workers are at it
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 130 and errors == ""
        with pytest.raises(ProcessLookupError):  # the group is empty
            os.killpg(process.pid, 0)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
