"""Runs of a store, and the index: quick, and never wrong."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import made_up
import pytest
from made_up import row, write_run, write_runs

from regard.errors import InputError
from regard.store import Store, local
from regard.store.local import LocalPlace

pytestmark = pytest.mark.slow

INDEX = ".index.json"


def by_name(store: Store) -> dict[str, object]:
    return {run.name: run for run in store.runs()}


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of runs that are read from now on."""
    read: list[str] = []
    own = LocalPlace.read

    def counted(self: LocalPlace, path: str) -> bytes | None:
        if path != INDEX:
            read.append(path)
        return own(self, path)

    monkeypatch.setattr(LocalPlace, "read", counted)
    return read


def test_what_a_run_says(tmp_path: Path) -> None:
    write_run(tmp_path, "a run", seed=4, epochs=5, done=3, accuracy=0.75)
    (run,) = Store(tmp_path).runs()
    assert run.name == "a run"
    assert run.recipe["seed"] == run.seed == 4
    assert run.recipe["model"]["gate"] == "sub-attention"
    assert (run.epochs, run.epochs_asked, run.finished, run.problem) == (3, 5, False, "")
    assert run.row["test_accuracy"] == 0.75
    assert run.images_per_second == 1502.0  # the median of 1501, 1502, 1503
    assert run.classes == 10
    assert "classes" not in run.environment
    assert run.environment["torch"] == "2.15.0"
    assert run.weights


def test_from_the_index_runs_are_as_they_were_read(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, f"run{seed}", seed=seed, done=seed)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metrics.jsonl").write_text("")
    read = Store(tmp_path).runs()
    assert (tmp_path / INDEX).exists()
    assert Store(tmp_path).runs() == read == Store(tmp_path).rebuild()
    assert [run.name for run in read] == ["broken", "run0", "run1", "run2"]


def test_recipes_are_stored_once(tmp_path: Path) -> None:
    write_runs(tmp_path, 20, recipes=2)
    Store(tmp_path).runs()
    assert len(json.loads((tmp_path / INDEX).read_text().splitlines()[1])["recipes"]) == 2
    assert len({run.recipe["model"]["name"] for run in Store(tmp_path).runs()}) == 2
    assert sorted(run.seed for run in Store(tmp_path).runs()) == sorted([*range(10)] * 2)


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where the system has that, as a disk takes long to remove thousands of files."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path))
    yield folder
    shutil.rmtree(folder)


def test_ten_thousand_runs(quick_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = quick_folder / "with a space"
    write_runs(store, 10_000)
    assert len(Store(store).runs()) == 10_000
    read = count_reads(monkeypatch)
    runs = Store(store).runs()
    assert len(runs) == 10_000 and all(run.finished for run in runs)
    assert not read  # the index has it all


def test_nothing_is_read_where_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_runs(tmp_path, 5)
    Store(tmp_path).runs()
    read = count_reads(monkeypatch)
    store = Store(tmp_path)
    assert len(store.runs()) == len(store.runs()) == 5
    assert not read
    store.rebuild()
    assert len(read) == 15


def test_changes_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("changed", "kept", "removed", "weights"):
        write_run(tmp_path, name, done=2)
    stores = [Store(tmp_path), Store(tmp_path)]
    assert len(stores[0].runs()) == 4
    read = count_reads(monkeypatch)
    with open(tmp_path / "changed" / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row(3)) + "\n")
    for file in (tmp_path / "removed").iterdir():
        file.unlink()
    (tmp_path / "removed").rmdir()
    (tmp_path / "weights" / "last.safetensors").unlink()
    write_run(tmp_path, "new")
    for store in (*stores, Store(tmp_path)):
        found = by_name(store)
        assert list(found) == ["changed", "kept", "new", "weights"]
        assert (found["changed"].epochs, found["kept"].epochs) == (3, 2)
        assert (found["kept"].weights, found["weights"].weights) == (True, False)
    assert not any(path.startswith("kept") for path in read)


def test_a_change_within_the_grain_of_the_clock_is_seen(tmp_path: Path) -> None:
    """The same size and the same time, as coarse clocks give them."""
    folder = write_run(tmp_path, "run", done=1, accuracy=0.25, age=0)
    metrics = folder / "metrics.jsonl"
    now = metrics.stat().st_mtime
    store = Store(tmp_path)
    assert store.runs()[0].row["test_accuracy"] == 0.25
    metrics.write_text(metrics.read_text().replace("0.25", "0.75"))
    os.utime(metrics, (now, now))
    assert store.runs()[0].row["test_accuracy"] == 0.75
    assert Store(tmp_path).runs()[0].row["test_accuracy"] == 0.75


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x01\xff",
        b"[]",
        b"null",
        b'{"version": 0}',
        b'{"version": 1}',
        b'{"version": 1, "recipes": [], "environments": [], "runs": {"run": [1, 2, 3]}}',
        b'{"version": 1, "recipes": [7], "environments": [7], "runs": {}}',
        b"[" * 100_000,
        None,
    ],
)
def test_any_other_index_is_made_anew(tmp_path: Path, content: bytes | None) -> None:
    write_run(tmp_path, "run")
    expected = Store(tmp_path).runs()
    whole = (tmp_path / INDEX).read_bytes()
    for broken in [content] if content is not None else [whole[:cut] for cut in range(0, len(whole), 97)]:
        (tmp_path / INDEX).write_bytes(broken)
        assert Store(tmp_path).runs() == expected
        assert (tmp_path / INDEX).read_bytes() == whole
    (tmp_path / INDEX).unlink()
    assert Store(tmp_path).runs() == expected


def test_an_index_that_cannot_be_read_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, "run")
    (tmp_path / INDEX).mkdir()  # not even root writes or reads a file there
    (tmp_path / INDEX / "x").write_text("")
    store = Store(tmp_path)
    assert len(store.runs()) == 1
    read = count_reads(monkeypatch)
    assert len(store.runs()) == 1
    assert not read
    assert sorted(os.listdir(tmp_path)) == [INDEX, "run"]


def test_a_store_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(target: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(target))

    monkeypatch.setattr(local, "beside", refuse)  # by which everything is written
    write_run(tmp_path, "run")
    store = Store(tmp_path)
    assert len(store.runs()) == len(Store(tmp_path).runs()) == 1
    read = count_reads(monkeypatch)
    assert len(store.runs()) == 1
    assert not read
    assert os.listdir(tmp_path) == ["run"]
    with pytest.raises(InputError, match="has to be writable"):
        store.claim("run")


def test_a_slow_disk_is_looked_at_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_runs(tmp_path, 100)
    expected = Store(tmp_path).runs()
    monkeypatch.setattr(local, "_SLOW", 0.0)
    assert Store(tmp_path).runs() == Store(tmp_path).rebuild() == expected


def test_what_is_no_run(tmp_path: Path) -> None:
    assert Store(tmp_path / "not there").runs() == []
    assert not Store(tmp_path / "not there").exists()
    write_run(tmp_path, ".hidden")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_text("")
    (tmp_path / "recipe.yaml").write_text("seed: 0\n")
    assert Store(tmp_path).runs() == []
    assert Store(tmp_path).run("pictures") is None
    assert Store(tmp_path).run("nothing") is None
    with pytest.raises(InputError, match="is a file"):
        Store(tmp_path / "recipe.yaml")


RECIPE = made_up.recipe()
LINES = "".join(json.dumps(row(epoch)) + "\n" for epoch in (1, 2, 3))


@pytest.mark.parametrize(
    ("files", "epochs", "problem"),
    [
        ({"metrics.jsonl": LINES[:-1]}, 3, ""),
        ({"metrics.jsonl": LINES[:-5]}, 2, ""),
        ({"metrics.jsonl": LINES + "\0\0\0"}, 3, ""),
        ({"metrics.jsonl": "{"}, 0, ""),
        ({"metrics.jsonl": ""}, 0, ""),
        ({"metrics.jsonl": None}, 0, ""),
        ({"environment.json": None}, 3, ""),
        ({"metrics.jsonl": "{\n" + LINES}, 0, "line 1 of metrics.jsonl is no JSON"),
        ({"metrics.jsonl": "[1]\n"}, 0, "line 1 of metrics.jsonl is not that of an epoch"),
        ({"metrics.jsonl": LINES + "{}\n"}, 0, "line 4 of metrics.jsonl is not that of an epoch"),
        ({"recipe.yaml": None}, 0, "no recipe.yaml"),
        ({"recipe.yaml": ""}, 0, "cut short"),
        ({"recipe.yaml": "a: [1"}, 0, "cannot be read"),
        ({"recipe.yaml": "- 1\n"}, 0, "no fields"),
        ({"recipe.yaml": "!!python/object/apply:os.system ['false']\n"}, 0, "cannot be read"),
        ({"recipe.yaml": RECIPE[: RECIPE.index("schedule")]}, 0, "not whole: it says no schedule.epochs"),
        ({"recipe.yaml": RECIPE[: RECIPE.index("seed")]}, 0, "not whole: it says no seed"),
        ({"recipe.yaml": RECIPE[:-2]}, 0, "cut short"),
        ({"recipe.yaml": RECIPE.replace("schedule:", "schedule: 3\nother:")}, 0, "no fields in schedule"),
        ({"recipe.yaml": "[" * 5000}, 0, "cannot be read"),
        ({"environment.json": "{"}, 0, "environment.json is no JSON"),
        ({"environment.json": "[]"}, 0, "environment.json holds no fields"),
    ],
)
def test_broken_runs_and_torn_lines(tmp_path: Path, files: dict[str, str | None], epochs: int, problem: str) -> None:
    write_run(tmp_path, "good")
    folder = write_run(tmp_path, "bad")
    for name, content in files.items():
        (folder / name).unlink() if content is None else (folder / name).write_text(content)
    for run in (by_name(Store(tmp_path))["bad"], Store(tmp_path).run("bad")):
        assert run.epochs == epochs
        assert problem in run.problem
        assert bool(problem) == bool(run.problem)
        assert not problem or not (run.finished or run.epochs_asked or run.seed)
        assert "\n" not in run.problem
    assert by_name(Store(tmp_path))["good"].finished


def test_only_checkpoints_is_a_broken_run(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (run,) = Store(tmp_path).runs()
    assert "no recipe.yaml" in run.problem


def test_a_file_that_cannot_be_read_is_tried_again(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run")
    (folder / "environment.json").unlink()
    (folder / "environment.json").mkdir()
    store = Store(tmp_path)
    assert "environment.json cannot be read" in store.runs()[0].problem
    (folder / "environment.json").rmdir()
    assert store.runs()[0].finished


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("memory://too-large")
    for name in ("good", "large"):
        store.push(write_run(tmp_path, name))
    system = fsspec.filesystem("memory")
    system.pipe_file("/too-large/large/metrics.jsonl", bytes(2**26 + 1))
    read: list[str] = []
    cat_file = type(system).cat_file
    monkeypatch.setattr(
        type(system), "cat_file", lambda *given, **more: read.append(given[1]) or cat_file(*given, **more)
    )
    found = by_name(Store("memory://too-large"))
    assert found["good"].finished
    assert "metrics.jsonl cannot be read" in found["large"].problem
    assert "/too-large/good/metrics.jsonl" in read and "/too-large/large/metrics.jsonl" not in read


def test_keys_and_dates_of_recipes_are_text(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run")
    recipe = made_up.recipe().replace("options: {}", "options: {1: 2020-01-01}", 1)
    (folder / "recipe.yaml").write_text(recipe)
    os.utime(folder / "recipe.yaml", (0, 0))
    (run,) = Store(tmp_path).runs()
    assert run.recipe["data"]["options"] == {"1": "2020-01-01"}
    assert Store(tmp_path).runs() == [run]


def test_seeds_of_every_kind(tmp_path: Path) -> None:
    """The seed is taken from the text where recipes are the same but for it: as YAML would."""
    for number, seed in enumerate(("0", "17", "9223372036854775807", "0x1F", "010", "1_000")):
        folder = write_run(tmp_path, f"run{number}")
        (folder / "recipe.yaml").write_text(made_up.recipe().replace("seed: 0", f"seed: {seed}"))
    (write_run(tmp_path, "run6") / "recipe.yaml").write_text(made_up.recipe() + "seed: 5\n")  # the last one counts
    assert [run.seed for run in Store(tmp_path).runs()] == [0, 17, 9223372036854775807, 31, 8, 1000, 5]


def _write_and_list(folder: Path, who: int) -> None:
    store = Store(folder)
    for number in range(40):
        write_run(folder, f"run{who}-{number}", seed=number, age=0 if number % 2 else 100)
        assert all(not run.problem for run in store.runs())


def test_processes_that_write_and_list_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_and_list, args=(tmp_path, who)) for who in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(Store(tmp_path).runs()) == 120
    assert all(run.finished for run in Store(tmp_path).runs())
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_the_store_does_not_wait_for_torch() -> None:
    code = "import sys, regard.store, regard.commands.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Store(tmp_path.as_uri()).folder == tmp_path
    assert Store(str(tmp_path)).address == str(tmp_path)
    assert Store("memory://addresses/x").folder is None
    assert Store("memory://addresses/x/").address == "memory://addresses/x"
    assert pickle.loads(pickle.dumps(Store("memory://addresses/x"))).address == "memory://addresses/x"
    with pytest.raises(InputError, match="no address of a store"):
        Store("nothing://x")
    with pytest.raises(InputError, match="chain"):
        Store("simplecache::memory://x")
    monkeypatch.chdir(tmp_path)
    store = Store("runs")
    assert store.log("a").read_text() if store.log("a").exists() else store.log("a") == Path("runs/.logs/a.log")
    assert store.log("a").parent.is_dir()
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))
    assert Store("memory://x").log("a").is_relative_to(tmp_path / "cache")
    for name in ("", ".x", "a/b", ".."):
        with pytest.raises(InputError, match="no name of a run"):
            store.run(name)
