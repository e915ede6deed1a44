"""Faults in a run: damaged or foreign checkpoints, a full disk, unreadable images, NaN and infinity, too little memory.
The run ends with an error of one line, and nothing is lost."""

from __future__ import annotations

import os
import random
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from regard import InputError, data, training
from regard.models import read_checkpoint
from regard.training import Run, load_recipe
from regard.training.checkpoint import read_newest, verify_checksums
from regard.training.loop import Loop

pytestmark = pytest.mark.slow

SMALL = [
    *("--model.name=wrn-10-1", "--schedule.epochs=3", "--schedule.batch_size=32", "--schedule.milestones=[]"),
    *("--device=cpu", "--threads=1"),
]


def recipe(*options: str) -> training.Recipe:
    return load_recipe(None, [*SMALL, *options])


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    """96 training images of the built-in set, three steps an epoch, and 20 test images."""
    return data.load("clutter", train=96, test=20)


@pytest.fixture(scope="module")
def whole(splits, tmp_path_factory) -> Run:
    """A run that nothing happens to."""
    return training.train(recipe(), tmp_path_factory.mktemp("whole") / "run", splits=splits).run


@pytest.fixture
def unfinished(whole, tmp_path) -> Run:
    """As it was after two epochs of three."""
    run = Run(shutil.copytree(whole.folder, tmp_path / "unfinished"))
    (run.checkpoints / "step-000000009.pt").unlink()
    run.weights().unlink()
    return run


def contents(run: Run) -> dict[str, bytes]:
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def fails(plan: training.Recipe, run: Run | Path, splits: data.Splits | None, *words: str, **how: bool) -> str:
    """The error of a run, of one line and with these words."""
    with pytest.raises(InputError) as caught:
        training.train(plan, run.folder if isinstance(run, Run) else run, splits=splits, **how)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def goes_on(plan: training.Recipe, run: Run | Path, splits: data.Splits, whole: Run) -> None:
    """Resumed, it ends with the weights of the run that nothing happened to, and leaves nothing half written."""
    again = training.train(plan, run.folder if isinstance(run, Run) else run, splits=splits, resume=True)
    assert again.finished
    assert again.run.weights().read_bytes() == whole.weights().read_bytes()
    assert not list(again.run.folder.rglob(".*.part"))


def test_any_byte_of_a_checkpoint_flipped_is_noticed_or_of_no_effect(whole, tmp_path) -> None:
    newest = max(whole.checkpoints.iterdir())
    expected = read_newest(whole.checkpoints, print)
    moments, refused = random.Random("bytes"), 0
    for _ in range(100):
        damaged = bytearray(newest.read_bytes())
        damaged[moments.randrange(len(damaged))] ^= 1 << moments.randrange(8)
        (tmp_path / newest.name).write_bytes(damaged)
        try:
            found = read_newest(tmp_path, lambda line: None)
        except InputError:
            refused += 1
        else:  # it was in the padding between two parts
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert refused > 80


def test_epochs_of_another_length_are_named(splits, unfinished) -> None:
    """As where another number of processes leaves another last batch out."""
    newest = max(unfinished.checkpoints.iterdir())
    state = torch.load(newest, weights_only=True)
    torch.save({**state, "steps": 2, "processes": 4}, newest)
    before = contents(unfinished)
    fails(recipe(), unfinished, splits, "2 steps with 4 processes, and has 3 with 1", resume=True)
    assert contents(unfinished) == before


def resumed_by_two(folders: list[Path]) -> list[int]:
    """The epochs from which two processes go on that see these folders."""
    given: list[Any] = [None, None]
    together = threading.Barrier(2, timeout=60)

    def rank(own: int) -> int:
        def of_all(value: Any) -> list[Any]:
            given[own] = value
            together.wait()
            values = list(given)
            together.wait()
            return values

        state = read_newest(folders[own], lambda line: None, of_all)
        assert state is not None
        return state["epoch"]

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(rank, range(2)))


@pytest.mark.parametrize("failing", [0, 1])
def test_of_two_processes_one_fails_to_read_once_and_both_go_on_from_the_same_step(failing, whole, monkeypatch) -> None:
    reads: list[Path] = []

    def glitch(path: Path) -> Any:
        reads.append(path)
        if len(reads) == 1 + failing:
            raise InputError(f"{path} cannot be read")
        return read_checkpoint(path)

    monkeypatch.setattr("regard.models.read_checkpoint", glitch)
    assert resumed_by_two([whole.checkpoints] * 2) == [2, 2]
    assert len(reads) == 4


def test_two_processes_that_see_other_files_do_not_go_on_from_them(whole, tmp_path, monkeypatch) -> None:
    """As one of them sees what was there before; it is asked for the files that the first one sees."""
    other = shutil.copytree(whole.checkpoints, tmp_path / "checkpoints")
    older, newest = sorted(other.iterdir())
    monkeypatch.setattr(
        "regard.training.checkpoint.verify_checksums",
        lambda path: f"{threading.get_ident()}" if path.name == newest.name else verify_checksums(path),
    )
    assert resumed_by_two([whole.checkpoints, other]) == [2, 2]
    older.unlink()
    assert resumed_by_two([whole.checkpoints, other]) == [2, 2]


@pytest.mark.parametrize("options", [["--model.name=wrn-10-2"], ["--optimizer.name=adamw"]])
def test_checkpoints_of_another_run_are_refused(options, splits, unfinished, tmp_path) -> None:
    other = training.train(recipe(*options, "--schedule.epochs=1"), tmp_path / "other", splits=splits).run
    for path in unfinished.checkpoints.iterdir():
        path.unlink()
    for path in other.checkpoints.iterdir():
        shutil.copy(path, unfinished.checkpoints)
    before = contents(unfinished)
    fails(recipe(), unfinished, splits, "the checkpoint in", str(unfinished.folder), resume=True)
    assert contents(unfinished) == before


@contextmanager
def room(size: int) -> Iterator[None]:
    """Within it, no file can grow larger than so many bytes: writing more fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [400_000, 200_000], ids=["weights fit", "nothing fits"])
def test_a_full_disk_leaves_what_was_there(size, splits, whole, unfinished) -> None:
    before = contents(unfinished)
    with room(size):
        fails(recipe(), unfinished, splits, "could not be written", "File too large", resume=True)
    after = contents(unfinished)
    assert all(after[name] == content for name, content in before.items() if name.startswith("checkpoints"))
    assert not list(unfinished.folder.rglob(".*.part"))
    goes_on(recipe(), unfinished, splits, whole)


@pytest.mark.parametrize("size", [400_000, 200_000], ids=["weights fit", "nothing fits"])
def test_no_checkpoint_is_promised_where_there_is_none(size, splits, whole, tmp_path) -> None:
    with room(size):
        message = fails(recipe(), tmp_path / "run", splits, "could not be written", "File too large")
    assert "previous checkpoint" not in message and "is kept" not in message
    goes_on(recipe(), tmp_path / "run", splits, whole)


@pytest.fixture
def files(splits, tmp_path) -> Path:
    """The images as JPEG files in class folders, three of the training images unreadable."""
    folder = tmp_path / "images"
    for images in splits:
        for i, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
            path = folder / images.split / images.classes[label] / f"{i:02}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    cut, empty, text = (path for path in sorted((folder / "train").rglob("*.jpg"))[:90:30])
    os.truncate(cut, cut.stat().st_size // 2)
    empty.write_bytes(b"")
    text.write_text("not an image")
    return folder


def test_unreadable_images_are_named_or_skipped_and_counted(files, tmp_path) -> None:
    broken = {str(path) for path in sorted((files / "train").rglob("*.jpg"))[:90:30]}
    about = ["--data.name=files", f"--data.folder={files}", "--data.size=32", "--data.workers=0"]
    message = fails(recipe(*about), tmp_path / "run", None, "--data.unreadable skip")
    assert any(path in message for path in broken)

    plan = recipe(*about, "--data.unreadable=skip", "--schedule.epochs=2")
    run = training.train(plan, tmp_path / "run", overwrite=True).run
    assert [row["unreadable"] for row in run.metrics()] == [3, 3]
    named = (run.folder / "unreadable.txt").read_text().splitlines()
    assert len(named) == 3 and all(any(path in line for line in named) for path in broken)


def spoil(monkeypatch: pytest.MonkeyPatch, step: int, how: Callable[[Loop], object]) -> None:
    """Has something happen to a loop at a step, after the backward pass."""
    clip = Loop.clip

    def spoilt(loop: Loop) -> torch.Tensor:
        if loop.steps_done == step:
            how(loop)
        return clip(loop)

    monkeypatch.setattr(Loop, "clip", spoilt)


def an_infinite_gradient(loop: Loop) -> None:
    gradient = loop.parameters[0].grad
    assert gradient is not None
    gradient[0] = float("inf")


def weights_that_are_no_numbers(loop: Loop) -> None:
    loop.parameters[0].data[0] = float("nan")


@pytest.mark.parametrize(
    ("how", "what"),
    [(an_infinite_gradient, "gradient"), (weights_that_are_no_numbers, "loss")],
    ids=["gradient", "loss"],
)
def test_stopped_by_numbers_that_are_none_it_can_go_on(how, what, splits, whole, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as spoiling:
        spoil(spoiling, 4, how)
        fails(
            recipe(),
            tmp_path / "run",
            splits,
            f"the {what} is NaN or infinite in epoch 2",
            "checkpoint is kept",
        )
    goes_on(recipe(), tmp_path / "run", splits, whole)


def test_steps_without_a_finite_gradient_are_left_out_and_counted(splits, tmp_path, monkeypatch) -> None:
    spoil(monkeypatch, 4, an_infinite_gradient)
    run = training.train(recipe("--nonfinite=skip"), tmp_path / "run", splits=splits).run
    assert [row["skipped_steps"] for row in run.metrics()] == [0, 1, 0]
    assert all(value.isfinite().all() for value in run.model().state_dict().values())


def test_a_run_of_nothing_but_skipped_steps_is_given_up(splits, tmp_path) -> None:
    """Also where an epoch has fewer steps than are skipped before that."""
    plan = recipe("--nonfinite=skip", "--optimizer.lr=1e9", "--schedule.batch_size=8", "--schedule.epochs=8")
    fails(plan, tmp_path / "run", splits, "is NaN or infinite", "consecutive steps")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has …"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:125] err == 0. DefaultCPUAllocator: can't allocate memory: you tried …"
        ),
        MemoryError(),
    ],
    ids=["GPU", "CPU", "Python"],
)
def test_without_memory_it_says_what_to_change(error, splits, whole, unfinished, monkeypatch) -> None:
    def full(loop: Loop) -> None:
        raise error

    with monkeypatch.context() as spoiling:
        spoil(spoiling, 7, full)
        plan = recipe()
        words = ("memory is full", "schedule.batch_size is 32", "schedule.accumulate is 1", "bfloat16")
        fails(plan, unfinished, splits, *words, resume=True)
    goes_on(recipe(), unfinished, splits, whole)


def test_other_errors_are_not_taken_for_a_lack_of_memory(splits, tmp_path, monkeypatch) -> None:
    def wrong(loop: Loop) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    spoil(monkeypatch, 1, wrong)
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        training.train(recipe(), tmp_path / "run", splits=splits)
    assert not isinstance(caught.value, InputError)
