"""A run resumes only on the images it started with, wherever they are stored now."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regard.cli import main
from regard.training import Run

pytestmark = pytest.mark.slow

CLASSES = ("cat", "dog")
COMMAND = [
    *("train", "--model.name=wrn-10-0.5", "--schedule.epochs=1", "--schedule.batch_size=4", "--schedule.milestones=[]"),
    *("--data.size=16", "--data.workers=0", "--device=cpu", "--threads=1"),
]


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root: Path) -> None:
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                path = root / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(10 * label + number))


def shards(root: Path, seed: int = 0, count: int = 4) -> None:
    root.mkdir(exist_ok=True)
    splits = {}
    for split in ("train", "test"):
        with tarfile.open(root / f"{split}-0.tar", "w") as tar:
            for number in range(2 * count):
                for ending, content in (("png", png(seed + number)), ("cls", str(number % 2).encode())):
                    info = tarfile.TarInfo(f"{number:04}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        info = {"filenames": [f"{split}-0.tar"], "shard_lengths": [2 * count], "num_samples": 2 * count}
        splits[split] = {"name": split, **info}
    (root / "_info.json").write_text(json.dumps({"splits": splits, "classes": CLASSES}))


def renamed_class(root: Path) -> str:
    for split in ("train", "test"):
        (root / split / "cat").rename(root / split / "emu")
    return "'emu'"


def added_class(root: Path) -> str:
    for split in ("train", "test"):
        shutil.copytree(root / split / "cat", root / split / "bee")
    return "'bee'"


def exchanged_classes(root: Path) -> str:
    for split in ("train", "test"):
        (root / split / "cat").rename(root / split / "x")
        (root / split / "dog").rename(root / split / "cat")
        (root / split / "x").rename(root / split / "dog")
    return "training images were replaced"


def added_image(root: Path) -> str:
    (root / "train" / "dog" / "new.png").write_bytes(png(99))
    return "5 training images of class 'dog'"


def removed_test_image(root: Path) -> str:
    (root / "test" / "cat" / "1.png").unlink()
    return "1 test images of class 'cat'"


def replaced_image(root: Path) -> str:
    path = root / "train" / "dog" / "2.png"
    before = path.stat()
    path.write_bytes(png(99).ljust(before.st_size, b"\0")[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    Image.open(path).load()
    return "training images were replaced"


def classes_in_another_order(root: Path) -> str:
    info = json.loads((root / "_info.json").read_text())
    (root / "_info.json").write_text(json.dumps({**info, "classes": CLASSES[::-1]}))
    return "another order"


def other_shards(root: Path) -> str:
    size = (root / "train-0.tar").stat().st_size
    shards(root, seed=50)
    assert (root / "train-0.tar").stat().st_size == size
    return "training images were replaced"


def longer_shards(root: Path) -> str:
    shards(root, count=5)
    return "10 training images, before 8"


CHANGES = [
    *((kind, change) for kind in ("folder", "files") for change in (renamed_class, exchanged_classes, added_class)),
    *((kind, change) for kind in ("folder", "files") for change in (added_image, removed_test_image, replaced_image)),
    *(("wds", change) for change in (classes_in_another_order, other_shards, longer_shards)),
]


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> Callable[[str], Path]:
    """A function that returns a folder with data of a kind and a run that was started on them."""
    folders: dict[str, Path] = {}

    def start(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            (shards if kind == "wds" else folder)(folders[kind] / "data")
            root = folders[kind]
            options = [f"--data.name={kind}", f"--data.folder={root / 'data'}", f"--run={root / 'run'}"]
            assert main([*COMMAND, *options]) == 0
        return folders[kind]

    return start


@pytest.mark.parametrize(("kind", "change"), CHANGES, ids=lambda part: getattr(part, "__name__", part))
def test_resuming_on_other_images_is_refused(kind, change, started, tmp_path, capsys) -> None:
    shutil.copytree(started(kind), tmp_path, dirs_exist_ok=True)
    expected = change(tmp_path / "data")
    run = tmp_path / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    options = [f"--data.name={kind}", f"--data.folder={tmp_path / 'data'}", f"--run={run}", "--resume"]
    assert main([*COMMAND, *options, "--schedule.epochs=2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line and str(run) in line
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["folder", "files", "wds"])
def test_resuming_on_moved_images_reaches_the_same_weights(kind, started, tmp_path) -> None:
    """With more epochs, the run ends with the weights of a run that had as many from the start."""
    shutil.copytree(started(kind), tmp_path, dirs_exist_ok=True, copy_function=shutil.copy)  # new modification times
    options = [*COMMAND, f"--data.name={kind}", f"--data.folder={tmp_path / 'data'}", "--schedule.epochs=3"]
    assert main([*options, f"--run={tmp_path / 'run'}", "--resume"]) == 0
    run = Run.open(tmp_path / "run")
    assert run.recipe.schedule.epochs == 3 and [row["epoch"] for row in run.metrics()] == [1, 2, 3]
    assert main([*options, f"--run={tmp_path / 'whole'}"]) == 0
    assert run.weights().read_bytes() == Run.open(tmp_path / "whole").weights().read_bytes()


@pytest.mark.parametrize("kind", ["files", "wds"])
def test_a_resumed_run_may_skip_unreadable_images(kind, tmp_path, capsys, monkeypatch) -> None:
    broken = png(2)[:60]
    monkeypatch.setattr(sys.modules[__name__], "png", lambda seed, sound=png: broken if seed == 12 else sound(seed))
    if kind == "wds":
        shards(tmp_path / "data", seed=6)
    else:
        folder(tmp_path / "data")
    run = tmp_path / "run"
    options = [*COMMAND, f"--data.name={kind}", f"--data.folder={tmp_path / 'data'}", f"--run={run}"]
    assert main(options) == 2
    assert "--data.unreadable skip, with which --resume goes on" in capsys.readouterr().err
    assert main([*options, "--schedule.epochs=2", "--resume", "--data.unreadable=skip"]) == 0
    assert Run.open(run).recipe.data.unreadable == "skip"
    assert [row["epoch"] for row in Run.open(run).metrics()] == [1, 2]
    assert len((run / "unreadable.txt").read_text().splitlines()) >= 1


def test_a_run_without_recorded_images_is_refused(started, tmp_path, capsys) -> None:
    run = shutil.copytree(started("folder") / "run", tmp_path / "run")
    environment = json.loads((run / "environment.json").read_text())
    del environment["data"]
    (run / "environment.json").write_text(json.dumps(environment))
    data = ["--data.name=folder", f"--data.folder={started('folder') / 'data'}"]
    assert main([*COMMAND, *data, f"--run={run}", "--resume"]) == 2
    assert "environment.json" in capsys.readouterr().err


def test_processes_with_different_images_are_refused(started, tmp_path, monkeypatch, capsys) -> None:
    """For example, each machine has a copy of the data, and one copy lacks an image."""

    def of_all(self: object, value: tuple[tuple[str, ...], dict]) -> list:
        other = copy.deepcopy(value)
        other[1]["train"]["images"][1] -= 1
        return [value, other]

    data = ["--data.name=folder", f"--data.folder={started('folder') / 'data'}"]
    monkeypatch.setattr("regard.training.distributed.Processes.of_all", of_all)
    assert main([*COMMAND, *data, f"--run={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "process 1" in line and "3 training images of class 'dog'" in line
    assert not (tmp_path / "run").exists()
