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
    kept = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(kept, "PNG")
    return kept.getvalue()


def folder(place: Path) -> None:
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                path = place / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(10 * label + number))


def shards(place: Path, seed: int = 0, count: int = 4) -> None:
    place.mkdir(exist_ok=True)
    splits = {}
    for split in ("train", "test"):
        with tarfile.open(place / f"{split}-0.tar", "w") as tar:
            for number in range(2 * count):
                for ending, content in (("png", png(seed + number)), ("cls", str(number % 2).encode())):
                    info = tarfile.TarInfo(f"{number:04}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        about = {"filenames": [f"{split}-0.tar"], "shard_lengths": [2 * count], "num_samples": 2 * count}
        splits[split] = {"name": split, **about}
    (place / "_info.json").write_text(json.dumps({"splits": splits, "classes": CLASSES}))


def renamed_class(place: Path) -> str:
    for split in ("train", "test"):
        (place / split / "cat").rename(place / split / "emu")
    return "'emu'"


def added_class(place: Path) -> str:
    for split in ("train", "test"):
        shutil.copytree(place / split / "cat", place / split / "bee")
    return "'bee'"


def exchanged_classes(place: Path) -> str:
    for split in ("train", "test"):
        (place / split / "cat").rename(place / split / "x")
        (place / split / "dog").rename(place / split / "cat")
        (place / split / "x").rename(place / split / "dog")
    return "training images were replaced"


def added_image(place: Path) -> str:
    (place / "train" / "dog" / "new.png").write_bytes(png(99))
    return "5 training images of class 'dog'"


def removed_test_image(place: Path) -> str:
    (place / "test" / "cat" / "1.png").unlink()
    return "1 test images of class 'cat'"


def replaced_image(place: Path) -> str:
    path = place / "train" / "dog" / "2.png"
    before = path.stat()
    path.write_bytes(png(99).ljust(before.st_size, b"\0")[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    Image.open(path).load()
    return "training images were replaced"


def classes_in_another_order(place: Path) -> str:
    info = json.loads((place / "_info.json").read_text())
    (place / "_info.json").write_text(json.dumps({**info, "classes": CLASSES[::-1]}))
    return "another order"


def other_shards(place: Path) -> str:
    size = (place / "train-0.tar").stat().st_size
    shards(place, seed=50)
    assert (place / "train-0.tar").stat().st_size == size
    return "training images were replaced"


def longer_shards(place: Path) -> str:
    shards(place, count=5)
    return "10 training images, before 8"


CHANGES = [
    *((kind, change) for kind in ("folder", "files") for change in (renamed_class, exchanged_classes, added_class)),
    *((kind, change) for kind in ("folder", "files") for change in (added_image, removed_test_image, replaced_image)),
    *(("wds", change) for change in (classes_in_another_order, other_shards, longer_shards)),
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Callable[[str], Path]:
    """A folder with data of a kind, and the run that was begun with them."""
    made: dict[str, Path] = {}

    def begin(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            (shards if kind == "wds" else folder)(made[kind] / "data")
            options = [f"--data.name={kind}", f"--data.folder={made[kind] / 'data'}", f"--run={made[kind] / 'run'}"]
            assert main([*COMMAND, *options]) == 0
        return made[kind]

    return begin


@pytest.mark.parametrize(("kind", "change"), CHANGES, ids=lambda part: getattr(part, "__name__", part))
def test_other_images_are_refused(kind, change, begun, tmp_path, capsys) -> None:
    shutil.copytree(begun(kind), tmp_path, dirs_exist_ok=True)
    found = change(tmp_path / "data")
    run = tmp_path / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    options = [f"--data.name={kind}", f"--data.folder={tmp_path / 'data'}", f"--run={run}", "--resume"]
    assert main([*COMMAND, *options, "--schedule.epochs=2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert found in line and str(run) in line
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["folder", "files", "wds"])
def test_the_same_images_elsewhere_go_on(kind, begun, tmp_path) -> None:
    """Given more epochs, it goes on to the weights of a run that had as many from the beginning."""
    shutil.copytree(begun(kind), tmp_path, dirs_exist_ok=True, copy_function=shutil.copy)  # with times of now
    options = [*COMMAND, f"--data.name={kind}", f"--data.folder={tmp_path / 'data'}", "--schedule.epochs=3"]
    assert main([*options, f"--run={tmp_path / 'run'}", "--resume"]) == 0
    run = Run.open(tmp_path / "run")
    assert run.recipe.schedule.epochs == 3 and [row["epoch"] for row in run.metrics()] == [1, 2, 3]
    assert main([*options, f"--run={tmp_path / 'whole'}"]) == 0
    assert run.weights().read_bytes() == Run.open(tmp_path / "whole").weights().read_bytes()


@pytest.mark.parametrize("kind", ["files", "wds"])
def test_broken_images_may_be_skipped_from_then_on(kind, tmp_path, capsys, monkeypatch) -> None:
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


def test_a_run_that_recorded_no_images_is_refused(begun, tmp_path, capsys) -> None:
    run = shutil.copytree(begun("folder") / "run", tmp_path / "run")
    about = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({name: about[name] for name in about if name != "data"}))
    data = ["--data.name=folder", f"--data.folder={begun('folder') / 'data'}"]
    assert main([*COMMAND, *data, f"--run={run}", "--resume"]) == 2
    assert "environment.json" in capsys.readouterr().err


def test_processes_that_read_other_images_do_not_train(begun, tmp_path, monkeypatch, capsys) -> None:
    """As where each machine has a copy of the data, and one copy lacks an image."""

    def of_all(self: object, value: tuple[tuple[str, ...], dict]) -> list:
        other = copy.deepcopy(value)
        other[1]["train"]["images"][1] -= 1
        return [value, other]

    data = ["--data.name=folder", f"--data.folder={begun('folder') / 'data'}"]
    monkeypatch.setattr("regard.training.distributed.Processes.of_all", of_all)
    assert main([*COMMAND, *data, f"--run={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "process 1" in line and "3 training images of class 'dog'" in line
    assert not (tmp_path / "run").exists()
