"""`regard train --run s3://bucket/runs/NAME`: a run that is stored in a bucket."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support.buckets import TestBucket
from support.buckets import bucket as empty_bucket

from regard import cli, training
from regard.cli import train
from regard.errors import TAKEN_OVER
from regard.store import Store
from regard.training.loop import Loop

pytestmark = pytest.mark.slow

TINY = [
    *("--model.name=wrn-10-0.5", "--data.options.train=20", "--data.options.test=20", "--schedule.batch_size=10"),
    *("--schedule.epochs=3", "--device=cpu", "--threads=1"),
]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(train, "_PAUSES", (0.01, 0.01))
    with empty_bucket() as address:
        yield Store(address)


def regard(*arguments: str) -> tuple[int, str, str]:
    """Status, output and errors of `regard train`."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(out):
        status = cli.main(["train", *arguments])
    return status, out.getvalue(), errors.getvalue()


def stored(name: str) -> dict[str, bytes]:
    start = f"/runs/{name}/"
    files = {path: file.getvalue() for path, file in TestBucket.store.items()}
    return {path.removeprefix(start): content for path, content in files.items() if path.startswith(start)}


def local_weights(name: str = "local") -> dict[str, bytes]:
    """Trains the same run in a local folder and returns its weight files."""
    assert regard(*TINY, f"--run={name}")[0] == 0
    return {path: Path(name, path).read_bytes() for path in ("last.safetensors", "best.safetensors")}


@contextlib.contextmanager
def stopped_after(epochs: int) -> Iterator[None]:
    """Kills training in the epoch after the given number of epochs."""

    class Killed(BaseException):
        pass

    original = Loop.take_step

    def take_step(self: Loop, *args: Any) -> None:
        if self.epoch == epochs:
            raise Killed
        original(self, *args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Loop, "take_step", take_step)
        yield


def test_a_run_in_a_bucket_is_trained_resumed_and_overwritten(store: Store, tmp_path: Path) -> None:
    address = f"{store.address}/run"
    status, out, errors = regard(*TINY, f"--run={address}")
    assert status == 0 and out.startswith(f"{address}: test accuracy ") and out.count("\n") == 1, errors
    run = store.run("run")
    assert run is not None and run.finished and store.locked() == {}
    assert stored("run").items() >= local_weights().items()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))  # no local copy stays
    metrics = [call for call in TestBucket.traffic if call == "put run/metrics.jsonl"]
    assert len(metrics) == 3  # after every epoch
    status, _, errors = regard(*TINY, f"--run={address}")
    assert status == 2 and f"{address} exists already" in errors
    before = stored("run")
    assert regard(*TINY, f"--run={address}", "--resume")[0] == 0  # it is finished
    assert {path: content for path, content in stored("run").items() if path != "recipe.yaml"} == {
        path: content for path, content in before.items() if path != "recipe.yaml"
    }
    assert regard(*TINY, f"--run={address}", "--overwrite", "--schedule.epochs=1", "--seed=1")[0] == 0
    run = store.run("run")
    assert run is not None and run.finished and (run.seed, run.epochs) == (1, 1)
    assert [path for path in stored("run") if path.startswith("checkpoints")] == ["checkpoints/step-000000002.pt"]


def test_another_machine_resumes_the_run(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    address = f"{store.address}/run"
    with stopped_after(2):
        regard(*TINY, f"--run={address}")
    run = store.run("run")
    assert run is not None and run.epochs == 2
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "other cache"))
    status, _, notes = regard("--run", address, "--resume")  # with the recipe in the bucket
    assert status == 0 and "at epoch 3" in notes
    assert stored("run").items() >= local_weights().items()


def test_a_locked_run_is_not_trained(store: Store) -> None:
    with store.lock("run", lease=0.6):
        status, out, errors = regard(*TINY, f"--run={store.address}/run")
    assert status == 76 and f"pid {os.getpid()} on" in errors.splitlines()[-1]
    assert "waiting to see whether it is alive" in errors and stored("run") == {}


@pytest.mark.parametrize("word", ["put", "list", "remove"])
def test_a_bucket_failure_after_an_epoch_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """The run continues, and files newer than the bucket stay local until the upload succeeds."""
    original = Loop.finish_epoch

    def finish_epoch(self: Loop) -> None:
        (TestBucket.failing.add if self.epoch == 1 else TestBucket.failing.discard)(word)
        original(self)

    monkeypatch.setattr(Loop, "finish_epoch", finish_epoch)
    status, out, errors = regard(*TINY, f"--run={store.address}/run")
    assert status == 0
    assert ("the upload is tried again after the next epoch" in errors) == (word != "remove")
    run = store.run("run")
    assert run is not None and run.finished
    assert stored("run").items() >= local_weights().items()


def test_a_run_is_uploaded_later_after_a_bucket_failure(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Loop.finish_epoch

    def finish_epoch(self: Loop) -> None:
        if self.epoch == 1:
            TestBucket.failing.add("put")
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "finish_epoch", finish_epoch)
        status, _, errors = regard(*TINY, f"--run={store.address}/run")
    error = errors.splitlines()[-1]
    assert status == 2 and "the network is away" in error and "--resume" in error
    TestBucket.failing.clear()
    run = store.run("run")
    assert run is not None and run.epochs == 1
    status, _, notes = regard(*TINY, f"--run={store.address}/run", "--resume")
    assert status == 0 and "epoch 2/3" not in notes  # nothing is left to train
    run = store.run("run")
    assert run is not None and run.finished
    assert stored("run").items() >= local_weights().items()


def test_a_run_removed_from_the_bucket_starts_again(store: Store) -> None:
    with stopped_after(2):
        regard(*TINY, f"--run={store.address}/run")
    for path in stored("run"):
        fsspec.filesystem("testbucket").rm_file(f"/runs/run/{path}")
    status, _, notes = regard(*TINY, f"--run={store.address}/run", "--resume")
    assert status == 0 and "epoch 1/3" in notes


def test_a_process_that_lost_its_lock_uploads_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process took the run over while this one stood still."""

    class Left(BaseException):
        pass

    def leave(status: int) -> None:
        assert status == TAKEN_OVER
        raise Left

    original = Loop.finish_epoch

    def finish_epoch(self: Loop) -> None:
        if self.epoch == 1:
            fsspec.filesystem("testbucket").pipe_file("/runs/.locks/run/1", b"pid 5 on elsewhere\n1")
        original(self)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(Loop, "finish_epoch", finish_epoch)
    with pytest.raises(Left):
        regard(*TINY, f"--run={store.address}/run")
    run = store.run("run")
    assert run is not None and run.epochs == 1


def test_a_teacher_is_fetched_from_the_bucket(store: Store) -> None:
    assert regard(*TINY, f"--run={store.address}/teacher")[0] == 0
    teacher = f"{store.address}/teacher"
    options = [*TINY, f"--transfer.teacher={teacher}", "--transfer.beta=10", "--seed=1"]
    assert regard(*options, f"--run={store.address}/student")[0] == 0
    run = store.run("student")
    assert run is not None and run.finished and run.teachers == [teacher]
    status, _, errors = regard(*options, f"--run={teacher}", "--resume")
    assert status == 2 and "cannot be its own teacher" in errors
    status, _, errors = regard(*TINY, f"--transfer.teacher={store.address}/none", "--transfer.beta=10", "--run=mine")
    assert status == 2 and "there is no run none in testbucket://runs" in errors


def test_a_file_address_is_a_local_folder(store: Store, tmp_path: Path) -> None:
    assert regard(*TINY, "--schedule.epochs=1", f"--run={(tmp_path / 'runs/mine').as_uri()}")[0] == 0
    assert training.Run.open("runs/mine").recipe.schedule.epochs == 1
    assert regard(f"--run={(tmp_path / 'runs/mine').as_uri()}", "--resume")[0] == 0
