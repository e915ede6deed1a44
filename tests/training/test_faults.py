"""Faults in a run: damaged or foreign checkpoints, a full disk, unreadable images, NaN and infinity, too little memory.
The run ends with a one-line error, and nothing is lost."""

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
    """96 training images of clutter, three steps per epoch, and 20 test images."""
    return data.load("clutter", train=96, test=20)


@pytest.fixture(scope="module")
def whole(splits, tmp_path_factory) -> Run:
    """An uninterrupted run."""
    return training.train(recipe(), tmp_path_factory.mktemp("whole") / "run", splits=splits).run


@pytest.fixture
def unfinished(whole, tmp_path) -> Run:
    """The run as it was after two of three epochs."""
    run = Run(shutil.copytree(whole.folder, tmp_path / "unfinished"))
    (run.checkpoints / "step-000000009.pt").unlink()
    run.weights().unlink()
    return run


def contents(run: Run) -> dict[str, bytes]:
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def assert_fails(
    plan: training.Recipe, run: Run | Path, splits: data.Splits | None, *words: str, **options: bool
) -> str:
    """Asserts that a run fails with a one-line error that contains these words, and returns it."""
    with pytest.raises(InputError) as caught:
        training.train(plan, run.folder if isinstance(run, Run) else run, splits=splits, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def assert_resumes(plan: training.Recipe, run: Run | Path, splits: data.Splits, whole: Run) -> None:
    """Asserts that a resumed run ends with the weights of the uninterrupted one and leaves no partial files."""
    resumed = training.train(plan, run.folder if isinstance(run, Run) else run, splits=splits, resume=True)
    assert resumed.finished
    assert resumed.run.weights().read_bytes() == whole.weights().read_bytes()
    assert not list(resumed.run.folder.rglob(".*.part"))


def test_flipped_checkpoint_bits_are_detected_or_harmless(whole, tmp_path) -> None:
    newest = max(whole.checkpoints.iterdir())
    expected = read_newest(whole.checkpoints, print)
    generator, refused = random.Random("bytes"), 0
    for _ in range(100):
        damaged = bytearray(newest.read_bytes())
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        (tmp_path / newest.name).write_bytes(damaged)
        try:
            state = read_newest(tmp_path, lambda line: None)
        except InputError:
            refused += 1
        else:  # the bit was in the padding between two parts
            torch.testing.assert_close(state, expected, rtol=0, atol=0, equal_nan=True)
    assert refused > 80


def test_epochs_of_a_different_length_are_refused(splits, unfinished) -> None:
    """For example, another number of processes may drop another last batch."""
    newest = max(unfinished.checkpoints.iterdir())
    state = torch.load(newest, weights_only=True)
    torch.save({**state, "steps": 2, "processes": 4}, newest)
    before = contents(unfinished)
    assert_fails(recipe(), unfinished, splits, "2 steps with 4 processes, and has 3 with 1", resume=True)
    assert contents(unfinished) == before


def resumed_by_two(folders: list[Path]) -> list[int]:
    """The epochs from which two processes resume that read these checkpoint folders."""
    values: list[Any] = [None, None]
    together = threading.Barrier(2, timeout=60)

    def rank(index: int) -> int:
        def of_all(value: Any) -> list[Any]:
            values[index] = value
            together.wait()
            gathered = list(values)
            together.wait()
            return gathered

        state = read_newest(folders[index], lambda line: None, of_all)
        assert state is not None
        return state["epoch"]

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(rank, range(2)))


@pytest.mark.parametrize("failing", [0, 1])
def test_both_processes_resume_alike_if_one_fails_to_read(failing, whole, monkeypatch) -> None:
    reads: list[Path] = []

    def glitch(path: Path) -> Any:
        reads.append(path)
        if len(reads) == 1 + failing:
            raise InputError(f"{path} cannot be read")
        return read_checkpoint(path)

    monkeypatch.setattr("regard.models.read_checkpoint", glitch)
    assert resumed_by_two([whole.checkpoints] * 2) == [2, 2]
    assert len(reads) == 4


def test_processes_ignore_checkpoints_that_differ_between_them(whole, tmp_path, monkeypatch) -> None:
    """One process sees stale files, and is asked for the files that the first process sees."""
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
    assert_fails(recipe(), unfinished, splits, "the checkpoint in", str(unfinished.folder), resume=True)
    assert contents(unfinished) == before


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Limits file sizes to this many bytes, so that writing more fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [400_000, 200_000], ids=["weights fit", "nothing fits"])
def test_a_full_disk_keeps_the_previous_checkpoints(size, splits, whole, unfinished) -> None:
    before = contents(unfinished)
    with file_size_limit(size):
        assert_fails(recipe(), unfinished, splits, "could not be written", "File too large", resume=True)
    after = contents(unfinished)
    assert all(after[name] == content for name, content in before.items() if name.startswith("checkpoints"))
    assert not list(unfinished.folder.rglob(".*.part"))
    assert_resumes(recipe(), unfinished, splits, whole)


@pytest.mark.parametrize("size", [400_000, 200_000], ids=["weights fit", "nothing fits"])
def test_a_full_disk_error_promises_no_missing_checkpoint(size, splits, whole, tmp_path) -> None:
    with file_size_limit(size):
        message = assert_fails(recipe(), tmp_path / "run", splits, "could not be written", "File too large")
    assert "previous checkpoint" not in message and "is kept" not in message
    assert_resumes(recipe(), tmp_path / "run", splits, whole)


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
    data_options = ["--data.name=files", f"--data.folder={files}", "--data.size=32", "--data.workers=0"]
    message = assert_fails(recipe(*data_options), tmp_path / "run", None, "--data.unreadable skip")
    assert any(path in message for path in broken)

    plan = recipe(*data_options, "--data.unreadable=skip", "--schedule.epochs=2")
    run = training.train(plan, tmp_path / "run", overwrite=True).run
    assert [row["unreadable"] for row in run.metrics()] == [3, 3]
    lines = (run.folder / "unreadable.txt").read_text().splitlines()
    assert len(lines) == 3 and all(any(path in line for line in lines) for path in broken)


def inject(monkeypatch: pytest.MonkeyPatch, step: int, fault: Callable[[Loop], object]) -> None:
    """Calls `fault` on the loop at one step, after the backward pass."""
    clip = Loop.clip

    def clip_with_fault(loop: Loop) -> torch.Tensor:
        if loop.steps_done == step:
            fault(loop)
        return clip(loop)

    monkeypatch.setattr(Loop, "clip", clip_with_fault)


def make_gradient_infinite(loop: Loop) -> None:
    gradient = loop.parameters[0].grad
    assert gradient is not None
    gradient[0] = float("inf")


def make_weights_nan(loop: Loop) -> None:
    loop.parameters[0].data[0] = float("nan")


@pytest.mark.parametrize(
    ("fault", "quantity"),
    [(make_gradient_infinite, "gradient"), (make_weights_nan, "loss")],
    ids=["gradient", "loss"],
)
def test_a_run_stopped_by_nan_or_infinity_can_resume(fault, quantity, splits, whole, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        inject(patched, 4, fault)
        assert_fails(
            recipe(),
            tmp_path / "run",
            splits,
            f"the {quantity} is NaN or infinite in epoch 2",
            "checkpoint is kept",
        )
    assert_resumes(recipe(), tmp_path / "run", splits, whole)


def test_steps_without_finite_gradients_are_skipped_and_counted(splits, tmp_path, monkeypatch) -> None:
    inject(monkeypatch, 4, make_gradient_infinite)
    run = training.train(recipe("--nonfinite=skip"), tmp_path / "run", splits=splits).run
    assert [row["skipped_steps"] for row in run.metrics()] == [0, 1, 0]
    assert all(value.isfinite().all() for value in run.model().state_dict().values())


def test_too_many_consecutive_skipped_steps_end_the_run(splits, tmp_path) -> None:
    """The limit is counted across epochs, which may have fewer steps."""
    plan = recipe("--nonfinite=skip", "--optimizer.lr=1e9", "--schedule.batch_size=8", "--schedule.epochs=8")
    assert_fails(plan, tmp_path / "run", splits, "is NaN or infinite", "consecutive steps")


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
def test_out_of_memory_errors_suggest_what_to_change(error, splits, whole, unfinished, monkeypatch) -> None:
    def fail(loop: Loop) -> None:
        raise error

    with monkeypatch.context() as patched:
        inject(patched, 7, fail)
        plan = recipe()
        words = ("memory is full", "schedule.batch_size is 32", "schedule.accumulate is 1", "bfloat16")
        assert_fails(plan, unfinished, splits, *words, resume=True)
    assert_resumes(recipe(), unfinished, splits, whole)


def test_other_runtime_errors_are_not_reported_as_out_of_memory(splits, tmp_path, monkeypatch) -> None:
    def fail(loop: Loop) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    inject(monkeypatch, 1, fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        training.train(recipe(), tmp_path / "run", splits=splits)
    assert not isinstance(caught.value, InputError)
