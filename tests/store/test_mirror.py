"""Run folders to a store and back: what changed, whole, in an order that never shows an epoch without its weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from made_up import row, write_run

from regard.errors import InputError
from regard.store import Store, remote
from regard.store.local import LocalPlace
from regard.store.remote import RemotePlace


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> Store:
    return Store(memory if request.param == "memory" else tmp_path / "store")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Where the runs are trained."""
    folder = tmp_path / "work here"
    folder.mkdir()
    return folder


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes to and from the store, one word and a path each."""
    calls: list[str] = []

    def counted(kind: type, word: str, place: int) -> None:
        own: Callable[..., Any] = getattr(kind, word)

        def call(self: Any, *arguments: Any) -> Any:
            if not str(arguments[place]).startswith("."):
                calls.append(f"{word} {arguments[place]}")
            return own(self, *arguments)

        monkeypatch.setattr(kind, word, call)

    for kind in (RemotePlace, LocalPlace):
        for word, place in (("put", 1), ("get", 0), ("write", 0), ("remove", 0)):
            counted(kind, word, place)
    return calls


def train(folder: Path, epoch: int) -> None:
    """An epoch's traces in a run folder: weights, then metrics, then a checkpoint, of which two are kept."""
    (folder / "last.safetensors").write_text(f"weights {epoch}")
    rows = [row(number) for number in range(1, epoch + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / f"step-{epoch:09}.pt").write_text(f"state {epoch}")
    (folder / "checkpoints" / f"step-{epoch - 2:09}.pt").unlink(missing_ok=True)


def contents(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def stored(store: Store, name: str) -> dict[str, str]:
    place = store._place
    return {path: (place.read(f"{name}/{path}") or b"").decode() for path in place.files(name)}


def test_there_and_back(store: Store, work: Path, tmp_path: Path) -> None:
    folder = write_run(work, "a run", epochs=9, done=0)
    train(folder, 1)
    (folder / ".hidden").write_text("")
    (folder / "weights.part").write_text("")
    store.push(folder)
    assert stored(store, "a run") == {p: t for p, t in contents(folder).items() if not p.endswith(".part")}
    (run,) = store.runs()
    assert (run.name, run.epochs, run.weights, run.problem) == ("a run", 1, True, "")
    assert store.run("a run") == run
    store.push(folder, "another name")
    assert [run.name for run in store.runs()] == ["a run", "another name"]
    if store.folder is None:
        back = store.fetch("a run", tmp_path / "elsewhere" / "deep")
        assert back == tmp_path / "elsewhere" / "deep" / "a run"
        assert contents(back) == stored(store, "a run")
    else:
        assert store.fetch("a run", tmp_path / "elsewhere") == store.folder / "a run"
        assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(InputError, match="there is no run nothing"):
        store.fetch("nothing", tmp_path)
    with pytest.raises(InputError, match="there is no run folder"):
        store.push(work / "nothing")


def test_a_local_stores_own_folder_is_left_alone(tmp_path: Path, traffic: list[str]) -> None:
    folder = write_run(tmp_path, "run")
    Store(tmp_path).push(folder)
    assert not traffic
    assert not (folder / ".mirror.json").exists()


def test_only_what_changed_is_sent_and_metrics_last(store: Store, work: Path, traffic: list[str]) -> None:
    folder = write_run(work, "run", epochs=9, done=0)
    for epoch in (1, 2, 3):
        train(folder, epoch)
        store.push(folder)
        assert stored(store, "run") == contents(folder)
        expected = [f"put run/checkpoints/step-{epoch:09}.pt", "put run/last.safetensors", "write run/metrics.jsonl"]
        if epoch == 1:
            expected[:0] = ["put run/environment.json", "put run/recipe.yaml"]
        if epoch == 3:
            expected.append("remove run/checkpoints/step-000000001.pt")
        assert traffic == expected
        traffic.clear()
        store.push(folder)
        assert not traffic
        Store(store.address).push(folder)
        assert not traffic


def test_a_change_of_the_same_size_and_time_is_sent(store: Store, work: Path, traffic: list[str]) -> None:
    folder = write_run(work, "run")
    weights = folder / "last.safetensors"
    weights.write_text("one")
    now = weights.stat().st_mtime
    store.push(folder)
    weights.write_text("two")
    os.utime(weights, (now, now))
    traffic.clear()
    store.push(folder)
    assert traffic == ["put run/last.safetensors"]
    assert stored(store, "run")["last.safetensors"] == "two"


def test_what_another_changed_at_the_store_is_sent_again(store: Store, work: Path, traffic: list[str]) -> None:
    folder = write_run(work, "run")
    store.push(folder)
    store._place.write("run/last.safetensors", b"of another")
    store._place.write("run/bias.json", b"of another")
    traffic.clear()
    store.push(folder)
    assert traffic == ["put run/last.safetensors"]
    assert stored(store, "run") == {**contents(folder), "bias.json": "of another"}


def test_a_run_that_was_begun_anew_takes_the_place_of_the_other(store: Store, work: Path, traffic: list[str]) -> None:
    folder = write_run(work, "run", epochs=9, done=0)
    train(folder, 5)
    store.push(folder)
    shutil.rmtree(folder)
    write_run(work, "run", seed=1, epochs=9, done=0)
    store._place.write("run/notes.txt", b"a person's")
    store._place.write("run/bias.json", b"of the other")
    traffic.clear()
    store.push(folder)
    assert traffic.index("remove run/metrics.jsonl") < traffic.index("put run/recipe.yaml")
    assert stored(store, "run") == {**contents(folder), "notes.txt": "a person's"}
    assert store.run("run").epochs == 0  # type: ignore[union-attr]


def test_metrics_are_those_of_before_the_weights(store: Store, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on while the folder is sent."""
    folder = write_run(work, "run", epochs=9, done=0)
    train(folder, 1)
    kind = type(store._place)
    own = kind.put

    def put(self: Any, source: Path, path: str) -> None:
        own(self, source, path)
        if path.endswith("last.safetensors"):
            train(folder, 2)

    monkeypatch.setattr(kind, "put", put)
    store.push(folder)
    assert store.run("run").epochs == 1  # type: ignore[union-attr]
    monkeypatch.undo()
    store.push(folder)
    assert stored(store, "run") == contents(folder)


def test_a_checkpoint_that_goes_while_it_is_sent(store: Store, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(work, "run", epochs=9, done=0)
    train(folder, 3)
    kind = type(store._place)
    own = kind.put

    def put(self: Any, source: Path, path: str) -> None:
        source.unlink() if path.endswith(".pt") else None
        own(self, source, path)

    monkeypatch.setattr(kind, "put", put)
    store.push(folder)
    assert stored(store, "run") == contents(folder)
    assert "checkpoints/step-000000003.pt" not in stored(store, "run")


def test_two_machines_in_turn(memory: str, tmp_path: Path, traffic: list[str]) -> None:
    store = Store(memory)
    one = write_run(tmp_path / "one", "run", epochs=9, done=0)
    for epoch in (1, 2, 3):
        train(one, epoch)
        store.push(one)
    other = store.fetch("run", tmp_path / "other")
    assert contents(other) == contents(one)
    traffic.clear()
    assert store.fetch("run", tmp_path / "other") == other
    store.push(other)
    assert not traffic
    train(other, 4)
    store.push(other)
    assert not [call for call in traffic if "recipe" in call]
    assert store.fetch("run", tmp_path / "one") == one
    assert contents(one) == contents(other) == stored(store, "run")


def test_what_is_further_on_here_stays(memory: str, tmp_path: Path) -> None:
    """The last epochs could not be sent."""
    store = Store(memory)
    folder = write_run(tmp_path, "run", epochs=9, done=0)
    train(folder, 1)
    store.push(folder)
    train(folder, 2)
    further = contents(folder)
    store.fetch("run", tmp_path)
    assert contents(folder) == further
    (folder / "recipe.yaml").unlink()
    store.fetch("run", tmp_path)
    assert contents(folder) == further


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"of": 1}', None])
def test_without_its_notes_everything_is_sent(memory: str, tmp_path: Path, content: str | None) -> None:
    store = Store(memory)
    folder = write_run(tmp_path, "run")
    store.push(folder)
    notes = folder / ".mirror.json"
    if content is None:
        content = notes.read_text()[:-20]
    notes.write_text(content)
    store.push(folder)
    assert stored(store, "run") == contents(folder)
    notes.write_text(content)
    store.fetch("run", tmp_path)
    assert stored(store, "run") == contents(folder)


def test_transfers_are_tried_again(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PAUSES", (0.0, 0.0))
    store = Store(memory)
    folder = write_run(tmp_path, "run")
    system = fsspec.filesystem("memory")
    own, left = type(system).put_file, [2]

    def flaky(self: Any, *arguments: Any, **how: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("connection reset\nby peer")
        own(self, *arguments, **how)

    monkeypatch.setattr(type(system), "put_file", flaky)
    store.push(folder)
    assert stored(store, "run") == contents(folder)
    left[0] = 1000
    (folder / "last.safetensors").write_text("new")
    with pytest.raises(InputError, match=r"run could not be sent to memory:.*\(connection reset\)") as failed:
        store.push(folder)
    assert "\n" not in str(failed.value)
    assert stored(store, "run")["last.safetensors"] != "new"
    left[0] = 0
    store.push(folder)
    assert stored(store, "run") == contents(folder)


def test_names_that_are_patterns_and_spaces(memory: str, tmp_path: Path) -> None:
    store = Store(memory)
    for name in ("run [1]", "run 1", "run *", "run é"):
        folder = write_run(tmp_path, name, done=2)
        store.push(folder)
        assert contents(store.fetch(name, tmp_path / "back")) == contents(folder)
    assert [run.epochs for run in store.runs()] == [2] * 4
    assert [run.epochs for run in Store(memory).runs()] == [2] * 4


def test_half_of_a_file_is_never_there(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(memory)
    folder = write_run(tmp_path, "run")
    store.push(folder)
    before = stored(store, "run")
    system = fsspec.filesystem("memory")

    def half(self: Any, source: str, target: str, **how: Any) -> None:
        self.pipe_file(target, Path(source).read_bytes()[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(type(system), "put_file", half)
    (folder / "last.safetensors").write_text("new weights")
    with pytest.raises(KeyboardInterrupt):
        store.push(folder)
    assert stored(store, "run") == before


def test_the_index_of_a_remote_store(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(memory)
    for number in range(3):
        store.push(write_run(tmp_path, f"run{number}", seed=number))
    read: list[str] = []
    own = RemotePlace.read
    monkeypatch.setattr(RemotePlace, "read", lambda self, path: read.append(path) or own(self, path))  # type: ignore[func-returns-value]
    expected = store.runs()
    assert len(read) == 10
    read.clear()
    assert store.runs() == expected
    assert len(read) == 9  # files this new may change within the grain of the store's times
    monkeypatch.setattr(RemotePlace, "clock", lambda self: 1e12)
    assert store.runs() == expected
    read.clear()
    assert store.runs() == Store(memory).runs() == expected
    assert read == [".index.json"]
    store._place.write("run1/metrics.jsonl", b"")
    assert [run.epochs for run in Store(memory).runs()] == [3, 0, 3]


def test_a_store_that_is_not_to_be_reached(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PAUSES", ())
    store = Store(memory)

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no credentials\n(look them up)")

    for word in ("find", "info"):
        monkeypatch.setattr(type(fsspec.filesystem("memory")), word, fail)
    with pytest.raises(InputError, match=r"cannot be read \(no credentials\)"):
        store.runs()
    with pytest.raises(InputError, match=r"cannot be reached \(no credentials\)"):
        Store(memory)
