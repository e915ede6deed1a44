"""WebDataset shards, streamed in training."""

import gzip
import http.server
import io
import json
import multiprocessing
import os
import random
import tarfile
import threading
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image
from support.loaders import error_of, rank_rows, same, skipped_in, streamed
from timm.data import create_transform

from regard import data
from regard.errors import InputError

SHARDS, EACH = 6, 10
SIZE = 16
WORKERS = [0, pytest.param(2, marks=pytest.mark.slow)]
SLICES = [pytest.param(3, 12, 2, marks=pytest.mark.slow), pytest.param(8, 16, 1, marks=pytest.mark.slow)]


def jpeg(number, side=24):
    """A JPEG whose colour encodes its number."""
    pixels = np.random.default_rng(number).integers(0, 40, (side, side + 6, 3)) + number * 2 % 200
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_shard(path, members):
    with tarfile.open(path, "w") as shard:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))


def members(numbers, image="jpg"):
    for number in numbers:
        yield f"{number:04}.{image}", jpeg(number)
        yield f"{number:04}.cls", str(number % 5).encode()


def write_shards(folder, split, count, each, info=None):
    for shard in range(count):
        write_shard(folder / f"{split}-{shard:03}.tar", members(range(shard * each, (shard + 1) * each)))
    if info is not None:
        info[split] = {
            "name": split,
            "filenames": [f"{split}-{shard:03}.tar" for shard in range(count)],
            "shard_lengths": [each] * count,
            "num_samples": count * each,
        }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    splits = {}
    write_shards(folder, "train", SHARDS, EACH, splits)
    write_shards(folder, "validation", 5, 7, splits)
    (folder / "_info.json").write_text(json.dumps({"splits": splits, "classes": list("abcde")}))
    return folder


@pytest.fixture
def shards(root, tmp_path):
    """A copy of the shards that a test may change."""
    for path in root.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def load(folder, **options):
    return data.load("wds", folder, **{"buffer": 8, **options})


def training(folder, batch_size=12, sliced=(0, 1), augmentation=None, workers=0, unreadable="error", **options):
    return streamed(
        load(folder, unreadable=unreadable, **options).train,
        batch_size,
        augmentation=augmentation or data.Augmentation(),
        shuffle=True,
        seed=1,
        rank=sliced[0],
        world_size=sliced[1],
        workers=workers,
        unreadable=unreadable,
    )


def test_info_json_gives_lengths_and_classes(root):
    train, test = load(root)
    assert (len(train), len(test), train.classes) == (60, 35, tuple("abcde"))
    assert (train.name, train.split, test.split) == ("wds", "train", "test")


def test_shards_may_be_given_by_braces_and_counts(root, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    for path in root.glob("*.tar"):
        (folder / path.name).write_bytes(path.read_bytes())
    names = {"train": "train-{000..005}.tar", "test": "validation-{000..004}.tar"}
    train, test = load(folder, classes=5, **names)  # counts the images
    assert (len(train), len(test), train.classes) == (60, 35, ("0", "1", "2", "3", "4"))
    assert len(load(folder, classes=5, train="train-{000..005}.tar|55", test=names["test"]).train) == 55
    train, _ = load(folder, classes=5, train="train-000.tar::train-{002..003}.tar", test=names["test"])
    assert len(train) == 30 and train.shards[1] == str(folder / "train-002.tar")
    assert len(load(folder, classes=5, **names, train_images=44).train) == 44
    (folder / "kinds.txt").write_bytes("\ufeffv\r\nw\r\nx\r\ny\r\nz\r\n".encode())
    assert load(folder, classes="kinds.txt", **names).train.classes == tuple("vwxyz")


def test_each_epoch_has_full_batches_in_its_own_order(root):
    batches = training(root)
    first, repeated, other = (list(batches.epoch(number)) for number in (0, 0, 1))
    assert len(first) == len(batches) == 5 and all(len(batch.labels) == batch.total == 12 for batch in first)
    assert same(first, repeated) and not torch.equal(first[0].images, other[0].images)
    assert first[0].images.shape == (12, 3, SIZE, SIZE) and first[0].images.dtype == torch.float32
    indices = torch.cat([batch.index for batch in first])
    assert len(indices.unique()) == 60


@pytest.mark.slow
def test_one_worker_gives_the_same_batches_as_none(root):
    policy = data.Augmentation(policy="rand-m7-mstd0.5-inc1", erasing=0.5, erasing_mode="pixel")
    alone, with_worker = (list(training(root, augmentation=policy, workers=count).epoch(2)) for count in (0, 1))
    assert same(alone, with_worker)


@pytest.mark.parametrize(("count", "batch_size", "workers"), [(2, 12, 0), (3, 20, 0), *SLICES])
@pytest.mark.parametrize("repeats", [1, 3])
def test_ranks_have_equally_many_batches_of_different_images(root, count, batch_size, workers, repeats):
    augmentation = data.Augmentation(repeats=repeats)
    slices = [(rank, count) for rank in range(count)]
    parts = [list(training(root, batch_size, sliced, augmentation, workers=workers).epoch(1)) for sliced in slices]
    for sliced, part in zip(slices, parts, strict=True):
        rows = torch.tensor(rank_rows(batch_size, *sliced))
        assert len(part) == 60 // batch_size and all(batch.total == batch_size for batch in part)
        assert all(torch.equal(batch.index, step * batch_size + rows) for step, batch in enumerate(part))
    firsts = [{image.numpy().tobytes() for image in part[0].images} for part in parts]
    assert all(first.isdisjoint(other) for first in firsts for other in firsts if other is not first)


@pytest.mark.parametrize("sliced", [(0, 1), (2, 3)])
def test_repeats_are_consecutive_and_continue_in_the_next_batch(root, sliced):
    batches = training(root, 12, sliced, data.Augmentation(repeats=3))
    whole = list(batches.epoch(0))
    rows = len(rank_rows(12, *sliced))
    labels = torch.cat([batch.labels for batch in whole])
    assert all(len(set(labels[i : i + 3].tolist())) == 1 for i in range(0, 5 * rows, 3)) and len(labels.unique()) > 1
    assert not torch.equal(whole[0].images[0], whole[0].images[1])
    assert same(list(batches.epoch(0, start=2)), whole[2:])


@pytest.mark.parametrize("start", [1, 4, 5])
@pytest.mark.parametrize("workers", [*WORKERS, pytest.param(4, marks=pytest.mark.slow)])
def test_an_epoch_can_start_at_any_step(root, start, workers):
    batches = training(root, workers=workers)
    whole, rest = list(batches.epoch(3)), list(batches.epoch(3, start))
    assert len(rest) == 5 - start and (start == 5 or same(whole[start:], rest))


@pytest.mark.parametrize("workers", WORKERS)
def test_sample_returns_the_image_at_a_position_of_an_epoch(root, workers):
    batches = training(root, workers=workers)
    batch, sample = list(batches.epoch(1))[3], batches.sample(1, 3 * 12 + 5)
    assert torch.equal(sample.images[0], batch.images[5]) and sample.labels[0] == batch.labels[5]
    assert len(sample.images) == 1


@pytest.mark.parametrize("workers", WORKERS)
def test_sample_works_without_shuffling(root, workers):
    loader = streamed(load(root).test, 4, workers=workers)
    images = torch.cat([batch.images for batch in loader.epoch(0)])
    assert all(torch.equal(loader.sample(0, at).images[0], images[at]) for at in range(0, len(images), 5))
    assert "does not exist" in error_of(loader.sample, 0, len(images))


@pytest.mark.slow
def test_workers_with_fewer_images_repeat_their_shards(root):
    """With four workers and six shards, two workers have twice as many images as the others."""
    epoch = list(training(root, 8, workers=4).epoch(0))
    assert len(epoch) == 7 and all(len(batch.labels) == 8 for batch in epoch)


def test_more_ranks_than_shards_share_the_shards(tmp_path):
    """32 processes, 16 shards, batches of 1,024."""
    write_shards(tmp_path, "train", 16, 4)
    options = {"train": "train-{000..015}.tar|2048", "test": "train-000.tar", "classes": 5}
    for rank in (0, 31):
        batches = training(tmp_path, 1024, (rank, 32), **options)
        assert len(batches) == 2 and len(next(batches.epoch(0)).labels) == 32


@pytest.mark.slow
def test_every_worker_reads_with_many_ranks(tmp_path):
    """64 shards give each of 8 ranks with 4 workers 2 shards per worker."""
    write_shards(tmp_path, "train", 64, 2)
    options = {"train": "train-{000..063}.tar", "test": "train-000.tar", "classes": 5}
    before = set(multiprocessing.active_children())
    epoch = training(tmp_path, 16, (3, 8), workers=4, **options).epoch(0)
    next(epoch)
    assert len(set(multiprocessing.active_children()) - before) == 4
    assert len(list(epoch)) == 7


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("workers", WORKERS)
def test_ranks_together_test_every_image_once(root, count, workers):
    test = load(root).test
    transform = create_transform(SIZE, is_training=False, crop_pct=0.875, interpolation="bilinear", use_prefetcher=True)
    normalised = data.Normalisation(test.mean, test.std)
    expected = {
        normalised(torch.as_tensor(transform(Image.open(io.BytesIO(jpeg(number)))))[None]).numpy().tobytes(): number
        for number in range(35)
    }
    numbers = {}
    for rank in range(count):
        for batch in streamed(test, 8, rank=rank, world_size=count, workers=workers).epoch(0):
            for image, label, index in zip(batch.images, batch.labels, batch.index.tolist(), strict=True):
                number = expected[image.numpy().tobytes()]
                assert label == number % 5
                numbers[index] = number
    # The index encodes the shard and the position in it, whichever rank reads it.
    assert numbers == {position * 5 + shard: shard * 7 + position for shard in range(5) for position in range(7)}


def test_a_test_epoch_can_start_at_any_step(root):
    batches = streamed(load(root).test, 10)
    assert same(list(batches.epoch(0))[2:], list(batches.epoch(0, 2)))


def test_missing_shards_are_named_before_training(shards):
    (shards / "train-002.tar").unlink(), (shards / "train-004.tar").unlink()
    for unreadable in ("error", "skip"):
        message = error_of(load, shards, unreadable=unreadable)
        assert message.startswith("2 of 6 shards do not exist") and "train-002.tar" in message


def remove(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[: 3 * 512 + 100])


def truncate_between_images(path):
    """Truncates the shard where the header of the sixth image begins."""
    with tarfile.open(path) as shard:
        end = shard.getmembers()[10].offset
    path.write_bytes(path.read_bytes()[:end])


def test_counting_detects_truncated_shards(shards):
    options = {"train": "train-{000..005}.tar", "test": "validation-000.tar", "classes": 5}
    (shards / "_info.json").unlink()
    path = shards / "train-002.tar"
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(whole))
    assert len(load(shards, **options).train) == 60
    with tarfile.open(fileobj=io.BytesIO(whole)) as shard:
        end = shard.getmembers()[10].offset
    for cut in (end, end + 100, end - 100):
        path.write_bytes(whole[:cut])
        message = error_of(load, shards, **options)
        assert "train-002.tar' is broken" in message and "--data.unreadable skip" in message
    path.write_bytes(whole[:end])
    images = load(shards, **options, unreadable="skip").train
    assert len(images) == 55
    epochs = streamed(images, 11, shuffle=True, seed=1, unreadable="skip")
    (shard,) = skipped_in([batch for number in range(2) for batch in epochs.epoch(number)])
    assert "train-002.tar' cannot be read to its end" in shard
    path.write_bytes(random.Random(0).randbytes(3000))
    assert "train-002.tar' is broken (it is not a tar file)" in error_of(load, shards, **options)


@pytest.mark.parametrize("damage", [remove, truncate, truncate_between_images])
@pytest.mark.parametrize("workers", WORKERS)
def test_a_shard_that_fails_during_training_is_named_or_skipped(shards, damage, workers):
    for unreadable in ("error", "skip"):
        batches = training(shards, workers=workers, unreadable=unreadable)
        if unreadable == "error":
            path = shards / "train-003.tar"
            content = path.read_bytes()
            damage(path)
            message = error_of(list, batches.epoch(0))
            assert "train-003.tar' cannot be read to its end" in message and "--data.unreadable skip" in message
            path.write_bytes(content)
            continue
        damage(shards / "train-003.tar")
        read_batches = [batch for number in range(2) for batch in batches.epoch(number)]
        assert len(read_batches) == 10 and all(len(batch.labels) == 12 for batch in read_batches)
        (shard,) = skipped_in(read_batches)
        assert "train-003.tar' cannot be read to its end" in shard


def damage_images(folder):
    numbers = range(20, 30)
    with_broken = [
        (name, b"not an image" if name in ("0023.jpg", "0024.jpg") else content) for name, content in members(numbers)
    ]
    write_shard(folder / "train-002.tar", with_broken)
    tests = [(name, b"" if name == "0003.jpg" else content) for name, content in members(range(7))]
    write_shard(folder / "validation-000.tar", tests)


@pytest.mark.parametrize("workers", WORKERS)
def test_unreadable_images_are_named_or_replaced(shards, workers):
    damage_images(shards)
    message = error_of(training, shards, workers=workers)
    assert "train-002.tar/002" in message and "is not an image" in message and "--data.unreadable skip" in message
    batches = training(shards, workers=workers, unreadable="skip")
    epoch = list(batches.epoch(0))
    assert all(len(batch.labels) == 12 for batch in epoch)
    assert same(epoch[3:], list(training(shards, workers=workers, unreadable="skip").epoch(0, 3)))
    skipped = skipped_in([*epoch, *batches.epoch(1)])
    assert len(skipped) == 2 and all("train-002.tar/002" in name for name in skipped)
    test = list(streamed(load(shards).test, 8, unreadable="skip", workers=workers).epoch(0))
    assert sum(len(batch.labels) for batch in test) == 34
    (reason,) = skipped_in(test)
    assert "validation-000.tar/0003" in reason


def test_shards_without_readable_images_are_refused(shards):
    for path in shards.glob("train-*.tar"):
        write_shard(path, [("1.jpg", b"x"), ("1.cls", b"0")])
    assert "60 images in a row" in error_of(training, shards, unreadable="skip")
    for path in shards.glob("train-*.tar"):
        path.write_bytes(b"x" * 2000)
    message = error_of(training, shards, unreadable="skip")
    assert "not one image can be read from 6 shards" in message and "the first" in message


@pytest.mark.slow
def test_a_worker_whose_only_shard_is_broken_reads_others(shards):
    (shards / "train-002.tar").write_bytes(b"x" * 2000)
    batches = training(shards, 4, workers=6, unreadable="skip")
    assert [len(batch.labels) for number in range(2) for batch in batches.epoch(number)] == [4] * 30


def test_missing_or_invalid_labels_are_named(shards):
    write_shard(shards / "train-000.tar", [(f"{n}.jpg", jpeg(n)) for n in range(10)])
    message = error_of(training, shards)
    assert "train-000.tar/" in message and "cls" in message
    write_shard(
        shards / "train-000.tar", [part for n in range(10) for part in ((f"{n}.jpg", jpeg(n)), (f"{n}.cls", b"17"))]
    )
    assert "has label 17, and there are 5 classes" in error_of(training, shards, unreadable="skip")


@pytest.mark.parametrize("counted", [True, False])
def test_system_files_in_shards_are_ignored(shards, counted):
    plain = list(members(range(10)))
    ignored = [
        (f"{prefix}{name}", b"\x00\x05\x16\x07") for name, _ in plain for prefix in ("._", "__MACOSX/._", "./._")
    ]
    ignored += [(f"{prefix}/0.jpg", jpeg(0)) for prefix in ("__MACOSX", "@eaDir/0003.jpg", ".hidden")]
    ignored += [(name, b"x") for name in ("Thumbs.db", "cat/desktop.ini", ".DS_Store")]
    for number, path in enumerate(sorted(shards.glob("*.tar"))):
        write_shard(path, [*plain[:4], *ignored, *plain[4:]] if number % 2 else [*ignored, *plain])
    names = {} if counted else {"train_images": 60, "test_images": 50}
    options = {"train": "train-{000..005}.tar", "test": "validation-{000..004}.tar", "classes": 5, **names}
    (shards / "_info.json").unlink()
    assert [len(part) for part in load(shards, **options)] == [60, 50]
    test = list(streamed(load(shards, **options).test, 8).epoch(0))
    labels = torch.cat([batch.labels for batch in test])
    assert labels.bincount().tolist() == [10] * 5 and not skipped_in(test)
    clean = shards / "clean"
    clean.mkdir()
    for path in shards.glob("*.tar"):
        write_shard(clean / path.name, plain)
    assert same(list(training(shards, **options).epoch(0)), list(training(clean, **options).epoch(0)))


def test_names_with_several_dots_are_explained(shards):
    dotted = [(f"img.{name}", content) for name, content in members(range(10))]
    write_shard(shards / "train-000.tar", dotted)
    message = error_of(training, shards)
    assert "train-000.tar'" in message and "1 of 10 images" in message and "first dot" in message
    (shards / "_info.json").unlink()
    names = {"train": "train-000.tar|10", "test": "train-000.tar|10", "classes": 5}
    message = error_of(training, shards, batch_size=2, **names)
    assert "train-000.tar/img" in message and ".0000.jpg, .0000.cls" in message and "first dot" in message
    names = {"train": "train-000.tar", "test": "train-000.tar", "classes": 5}
    assert "no images" in error_of(load, shards, **names)
    # A sample may have other images beside its own.
    more = [part for n in range(10) for part in ((f"{n}.seg.png", b"x"), (f"{n}.jpg", jpeg(n)), (f"{n}.cls", b"1"))]
    write_shard(shards / "train-000.tar", more)
    assert len(load(shards, **names).train) == 10


@pytest.mark.parametrize(
    "pattern",
    [
        "train-{000000..999999999}.tar",
        "train-{0..99999999999999999999999999999999}.tar",
        "train-{000..999}{000..999}.tar",
        "train-" + "{a,b}" * 40 + ".tar",
        "train-" + "{a..z}" * 6 + ".tar",
        "train-" + "{" * 5000 + "1,a.tar" + "}" * 5000,
    ],
)
def test_braces_that_expand_to_too_many_shards_are_refused(root, pattern):
    message = error_of(load, root, train=pattern)
    assert "train-" in message and len(message) < 500


def test_labels_may_be_in_json(tmp_path):
    for split in ("train", "test"):
        write_shard(
            tmp_path / f"{split}-0.tar",
            [part for n in range(8) for part in ((f"{n}.png", jpeg(n)), (f"{n}.json", b'{"kind": %d}' % (n % 3)))],
        )
    names = {"train": "train-0.tar", "test": "test-0.tar", "classes": 3, "target_key": "kind"}
    batches = training(tmp_path, 8, **names)
    assert sorted(next(batches.epoch(0)).labels.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2]


def test_shards_may_come_from_a_command_if_allowed(root, monkeypatch):
    monkeypatch.setenv("REGARD_PIPES", "1")
    names = {"train": f"pipe:cat {root}/train-{{000..005}}.tar|60", "test": f"pipe:cat {root}/validation-000.tar|7"}
    piped = load(root, classes=5, **names)
    plain = training(root)
    batches = streamed(piped.train, 12, augmentation=data.Augmentation(), shuffle=True, seed=1)
    assert same(list(batches.epoch(0)), list(plain.epoch(0)))
    failing = load(root, classes=5, **{**names, "test": "pipe:false .tar|7"})
    assert "pipe:false .tar" in error_of(lambda: streamed(failing.test, 4))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pipe:touch x .tar|7", "a command to run; set REGARD_PIPES=1"),
        ("https://e.org/a';touch x;'.tar|7", "not a plain address"),
    ],
)
def test_recipes_cannot_run_commands(name, expected, root):
    with pytest.raises(InputError, match=expected):
        data.load("wds", root, classes=5, train=name, test="validation-000.tar")


def info(**changes):
    split = {"name": "train", "filenames": ["train-000.tar"], "shard_lengths": [10], "num_samples": 10, **changes}
    return {"splits": {"train": split, "test": split}, "classes": list("abcde")}


@pytest.mark.parametrize(
    "content",
    [
        info(filenames=[5]),
        info(filenames=5),
        info(filenames="train-000.tar"),
        info(filenames=[["train-000.tar"]]),
        info(shard_lengths=["10"]),
        info(shard_lengths=[10**400]),
        info(shard_lengths=5),
        info(num_samples="10"),
        info(num_samples=-1),
        info(num_samples=1e300),
        {**info(), "splits": ["train"]},
        {**info(), "splits": None},
        {**info(), "classes": [["a"]]},
        {**info(), "classes": 10**12},
        {**info(), "classes": -1},
        {**info(), "classes": "abcde"},
        ["train"],
        "train",
        5,
        None,
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
    ],
)
def test_an_info_json_of_wrong_types_is_one_line(content, shards):
    (shards / "_info.json").unlink()
    content(shards / "_info.json") if callable(content) else (shards / "_info.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        load(shards)
    assert "\n" not in str(caught.value)
    with suppress(InputError):  # the file is not needed with these options
        assert len(load(shards, train="train-000.tar|10", test="train-001.tar|10", classes=5).train) == 10


@pytest.fixture
def server_url(root):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(root))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_images_of_different_sizes_need_a_size(shards):
    write_shard(
        shards / "validation-000.tar", [("a.jpg", jpeg(1)), ("a.cls", b"1"), ("b.jpg", jpeg(2, 20)), ("b.cls", b"2")]
    )
    test = load(shards, test="validation-000.tar").test
    assert "one size for all" in error_of(list, data.create_loader(test, 2).epoch(0))
    assert [len(batch.labels) for batch in data.create_loader(test, 1).epoch(0)] == [1, 1]


def test_an_unsupported_url_scheme_is_one_line():
    batches = training("nowhere://a", 2, train="a.tar|4", test="b.tar|4", classes=2)
    assert "'nowhere://a/a.tar' cannot be read to its end" in error_of(list, batches.epoch(0))


@pytest.mark.slow
def test_shards_can_be_read_over_http(root, server_url):
    assert same(list(training(server_url, workers=2).epoch(0)), list(training(root, workers=2).epoch(0)))
    message = error_of(training, server_url, train="train-{004..007}.tar|40")
    assert "train-00" in message and "cannot be read to its end" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"train": "trian"}, "did you mean 'train'"),
        ({"train": "train-*.tar"}, "for several, use braces, 'train-{0000..0003}.tar'"),
        ({"train": "train-{000..005}.tar|many"}, "names no shards"),
        ({"train": "train-{000..005}.tar|-3"}, "train-{000..005}.tar|-3"),
        ({"train": f"train-{{000..005}}.tar|{10**30}"}, "train-{000..005}.tar|1000"),
        ({"train": "train-{a..c}{a..c}{a..c}{a..c}.tar"}, "81 of 81 shards do not exist"),
        ({"classes": "nowhere.txt"}, "nowhere.txt"),
        ({"classes": 0}, "classes: found 0"),
        ({"classes": 10**12}, "classes: found 1000000000000"),
        ({"classes": list("abcda")}, "'a' named twice"),
        ({"classes": "/dev/zero"}, "/dev/zero"),
        ({"lanes": 4}, "lanes"),
        ({"buffer": 0}, "buffer is 0"),
        ({"train_images": 0}, "train_images is 0"),
    ],
)
def test_invalid_options_are_named(root, options, expected):
    assert expected in error_of(data.load, "wds", root, **options)


def test_missing_options_are_named(tmp_path):
    assert "--data.options.train" in error_of(load, tmp_path)
    write_shard(tmp_path / "a.tar", members(range(3)))
    assert "--data.options.classes" in error_of(load, tmp_path, train="a.tar", test="a.tar")
    assert "--data.options.test" in error_of(load, tmp_path, train="a.tar")
    assert "after a bar" in error_of(load, tmp_path, train="http://127.0.0.1/a.tar", test="a.tar", classes=2)


def test_shards_have_no_subsets(root):
    assert "no subsets" in error_of(load(root).train.subset, 3)
