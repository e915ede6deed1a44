"""Upload and download of run folders: changed files alone, in an order that never shows an epoch without weights."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import fsspec
import pytest
from support.buckets import TestBucket
from support.runs import row, write_run

from regard.errors import InputError
from regard.store import MissingRun, Store, local_run, split_address

traffic = TestBucket.traffic


@pytest.fixture
def store(bucket: str) -> Store:
    return Store(bucket)


def train(folder: Path, epoch: int) -> None:
    """Writes the files of an epoch to a run folder, each replaced as a whole; two checkpoints are kept."""

    def write(name: str, text: str) -> None:
        (folder / "aside").write_text(text)
        os.replace(folder / "aside", folder / name)

    (folder / "checkpoints").mkdir(exist_ok=True)
    write("last.safetensors", f"weights {epoch}")
    write("metrics.jsonl", "".join(json.dumps(row(number)) + "\n" for number in range(1, epoch + 1)))
    write(f"checkpoints/step-{epoch:09}.pt", f"state {epoch}")
    (folder / "checkpoints" / f"step-{epoch - 2:09}.pt").unlink(missing_ok=True)


def contents(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def stored(name: str) -> dict[str, str]:
    start = f"/runs/{name}/"
    files = {path: file.getvalue().decode() for path, file in TestBucket.store.items()}
    return {path.removeprefix(start): text for path, text in files.items() if path.startswith(start)}


def write(path: str, text: str) -> None:
    fsspec.filesystem("testbucket").pipe_file(f"/runs/{path}", text.encode())


def test_a_run_is_uploaded_and_downloaded(store: Store, tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a run", epochs=9, done=0)
    train(folder, 1)
    for name in (".hidden", "notes.txt", "weights.part", "checkpoints/mine.pt"):
        (folder / name).write_text("a person's")
    store.upload(folder)
    uploaded = {path: text for path, text in contents(folder).items() if text != "a person's"}
    assert stored("a run") == uploaded and len(uploaded) == 5
    assert (store.run("a run").epochs, store.run("a run").weights) == (1, True)
    store.upload(folder, "another [*] é")
    assert [run.name for run in store.runs()] == ["a run", "another [*] é"]
    for name in ("a run", "another [*] é"):
        copy = store.fetch(name, tmp_path / "elsewhere" / "deep")
        assert copy == tmp_path / "elsewhere" / "deep" / name and contents(copy) == uploaded
    for name in ("nothing", ".."):
        with pytest.raises(InputError, match=name):
            store.fetch(name, tmp_path)


def test_a_local_run_is_not_copied(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run")
    store = Store(tmp_path)
    assert store.fetch("run", tmp_path / "elsewhere") == folder and not (tmp_path / "elsewhere").exists()
    with pytest.raises(MissingRun):
        store.fetch("nothing")
    with pytest.raises(InputError, match="is a folder"):
        store.upload(folder)


def test_only_changed_files_are_uploaded_and_metrics_last(store: Store, tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run", epochs=9, done=0)
    for epoch in (1, 2, 3):
        train(folder, epoch)
        store.upload(folder)
        assert stored("run") == contents(folder)
        expected = [f"put checkpoints/step-{epoch:09}.pt", "put last.safetensors", "put metrics.jsonl"]
        if epoch == 1:
            expected[:0] = ["put environment.json", "put recipe.yaml"]
        if epoch == 3:
            expected.append("remove checkpoints/step-000000001.pt")
        assert [call.replace("run/", "") for call in traffic] == expected
        traffic.clear()
        Store(store.address).upload(folder)
        assert not traffic


def test_changes_of_equal_size_and_time_are_uploaded(store: Store, tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run", epochs=9, done=0)
    train(folder, 1)
    weights = folder / "last.safetensors"
    modified = weights.stat().st_mtime_ns
    store.upload(folder)
    train(folder, 2)
    os.utime(weights, ns=(modified, modified))
    store.upload(folder)
    assert stored("run") == contents(folder)


def test_files_changed_in_the_bucket_are_uploaded_again(store: Store, tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run")
    store.upload(folder)
    write("run/last.safetensors", "of another")
    write("run/bias.json", "of another")
    traffic.clear()
    store.upload(folder)
    assert traffic == ["put run/last.safetensors"]
    assert stored("run") == {**contents(folder), "bias.json": "of another"}


def test_a_restarted_run_replaces_the_earlier_one(store: Store, tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run", epochs=9, done=0)
    train(folder, 5)
    store.upload(folder)
    shutil.rmtree(folder)
    write_run(tmp_path, "run", seed=1, epochs=9, done=0)
    write("run/notes.txt", "a person's")
    write("run/bias.json", "of the other")
    traffic.clear()
    store.upload(folder)
    assert traffic.index("remove run/metrics.jsonl") < traffic.index("put run/recipe.yaml")
    assert stored("run") == {**contents(folder), "notes.txt": "a person's"}
    assert store.run("run").epochs == 0


def test_two_machines_train_a_run_in_turn(store: Store, tmp_path: Path) -> None:
    first = write_run(tmp_path / "one", "run", epochs=9, done=0)
    for epoch in (1, 2, 3):
        train(first, epoch)
        store.upload(first)
    second = store.fetch("run", tmp_path / "other")
    assert contents(second) == contents(first)
    traffic.clear()
    assert store.fetch("run", tmp_path / "other") == second
    store.upload(second)
    assert traffic == ["read run/metrics.jsonl"]
    for epoch in (4, 5):
        train(second, epoch)
    traffic.clear()
    store.upload(second)
    assert not [call for call in traffic if "recipe" in call]
    assert store.fetch("run", tmp_path / "one") == first
    assert contents(first) == contents(second) == stored("run")


def test_local_progress_is_not_overwritten(store: Store, tmp_path: Path) -> None:
    """The upload of the last epochs failed completely or in part."""
    folder = write_run(tmp_path, "run", epochs=9, done=0)
    train(folder, 1)
    store.upload(folder)
    train(folder, 2)
    TestBucket.failing.add("remove")
    train(folder, 3)
    with pytest.raises(InputError, match=r"cannot be written \(the network is away\)"):
        store.upload(folder)
    TestBucket.failing.clear()
    train(folder, 4)
    local_files = contents(folder)
    store.fetch("run", tmp_path)
    assert contents(folder) == local_files
    (folder / "recipe.yaml").unlink()
    store.fetch("run", tmp_path)
    assert contents(folder) == local_files
    store.upload(folder)
    assert stored("run") == local_files


@pytest.mark.parametrize("word", ["list", "put", "remove"])
def test_an_interrupted_upload_is_completed_later(store: Store, tmp_path: Path, word: str) -> None:
    folder = write_run(tmp_path, "run", epochs=9, done=0)
    train(folder, 1)
    store.upload(folder)
    for epoch in (2, 3):
        train(folder, epoch)
    TestBucket.failing.add(word)
    with pytest.raises(InputError, match=r"testbucket://runs cannot be written \(the network is away\)"):
        store.upload(folder)
    assert stored("run").keys() >= {"checkpoints/step-000000001.pt", "last.safetensors", "metrics.jsonl"}
    TestBucket.failing.clear()
    store.upload(folder)
    assert stored("run") == contents(folder)


def test_local_copies_of_removed_runs_are_deleted(store: Store, tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run")
    with pytest.raises(MissingRun):
        store.fetch("run", tmp_path)
    assert contents(folder)  # the run was never uploaded
    store.upload(folder)
    for path in stored("run"):
        fsspec.filesystem("testbucket").rm_file(f"/runs/run/{path}")
    with pytest.raises(MissingRun, match="there is no run run in testbucket://runs"):
        store.fetch("run", tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"run": 1}', '{"run": ["/runs", "run"], "files": {"a": 1}}', None]
)
def test_without_its_manifest_everything_is_uploaded(store: Store, tmp_path: Path, content: str | None) -> None:
    folder = write_run(tmp_path, "run")
    store.upload(folder)
    manifest = folder / ".manifest.json"
    text = manifest.read_text()[:-20] if content is None else content
    manifest.write_text(text)
    store.upload(folder)
    assert stored("run") == contents(folder)
    manifest.write_text(text)
    store.fetch("run", tmp_path)
    assert stored("run") == contents(folder)


def test_paths_outside_the_run_are_not_downloaded(store: Store, tmp_path: Path) -> None:
    store.upload(write_run(tmp_path, "run"))
    write("run/tensorboard/../../metrics.jsonl", "evil")
    write("run/tensorboard/../events.out.tfevents.1", "evil")
    copy = store.fetch("run", tmp_path / "back")
    assert "evil" not in contents(tmp_path / "back").values() and store.run("run").finished
    assert contents(copy) == contents(tmp_path / "run")


def test_several_processes_download_a_run_once(store: Store, tmp_path: Path) -> None:
    """Several processes on one machine may need the same teacher."""
    store.upload(write_run(tmp_path, "run"))
    traffic.clear()
    threads = [threading.Thread(target=Store(store.address).fetch, args=("run", tmp_path / "back")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert contents(tmp_path / "back" / "run") == contents(tmp_path / "run")
    downloads = [call for call in traffic if call.startswith("get")]
    assert len(downloads) == len(set(downloads)) == 3


def test_the_address_of_a_run_gives_a_local_copy(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))
    train(write_run(tmp_path, "run", epochs=9, done=0), 1)
    store.upload(tmp_path / "run")
    parent, name = split_address(f"{store.address}/run/")
    assert (parent.address, name) == (store.address, "run")
    copy = Path(local_run(f"{store.address}/run"))
    assert copy.is_relative_to(tmp_path / "cache") and copy.name == "run"
    assert not (copy / "checkpoints").exists() and (copy / "last.safetensors").read_text() == "weights 1"
    assert local_run("runs/run") == "runs/run"
    assert local_run((tmp_path / "run").as_uri()) == str(tmp_path / "run")
    with pytest.raises(InputError, match="no address of a run"):
        split_address("memory://x")
