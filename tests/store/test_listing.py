"""The runs of a store: every readable run, and the problems of the others."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support import runs
from support.buckets import TestBucket
from support.runs import row, write_run, write_runs

from regard.errors import InputError
from regard.files import read_regular
from regard.store import Store


def by_name(store: Store) -> dict[str, object]:
    return {run.name: run for run in store.runs()}


def test_a_stored_run_has_the_content_of_its_files(tmp_path: Path) -> None:
    write_run(tmp_path, "a run", seed=4, epochs=5, done=3, accuracy=0.75)
    (run,) = Store(tmp_path).runs()
    assert run.name == "a run"
    assert run.recipe["seed"] == run.seed == 4
    assert run.recipe["model"]["gate"] == "sub-attention"
    assert (run.epochs, run.epochs_planned, run.finished, run.problem) == (3, 5, False, "")
    assert run.row["test_accuracy"] == 0.75
    assert run.images_per_second == 1502.0  # the median of 1501, 1502, 1503
    assert run.classes == 10
    assert "classes" not in run.environment
    assert run.environment["torch"] == "2.15.0"
    assert run.weights


def test_a_thousand_runs_are_listed(tmp_path: Path) -> None:
    write_runs(tmp_path / "with a space", 1_000)
    listed = Store(tmp_path / "with a space").runs()
    assert len(listed) == 1_000 and all(run.finished for run in listed)
    assert len({run.recipe["model"]["name"] for run in listed}) == 200
    assert sorted({run.seed for run in listed}) == list(range(5))


def test_listing_again_shows_changes(tmp_path: Path) -> None:
    for name in ("changed", "kept", "removed", "weights"):
        write_run(tmp_path, name, done=2)
    store = Store(tmp_path)
    assert list(by_name(store)) == ["changed", "kept", "removed", "weights"]
    with open(tmp_path / "changed" / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row(3)) + "\n")
    shutil.rmtree(tmp_path / "removed")
    (tmp_path / "weights" / "last.safetensors").unlink()
    write_run(tmp_path, "new")
    listed = by_name(store)
    assert list(listed) == ["changed", "kept", "new", "weights"]
    assert (listed["changed"].epochs, listed["kept"].epochs) == (3, 2)
    assert (listed["kept"].weights, listed["weights"].weights) == (True, False)


def test_a_bucket_lists_the_same_runs_as_a_folder(tmp_path: Path, bucket: str) -> None:
    for number in range(3):
        write_run(tmp_path, f"run {number}", seed=number, done=number)
        Store(bucket).upload(tmp_path / f"run {number}")
    system = fsspec.filesystem("testbucket")
    for path in ("broken/metrics.jsonl", ".hidden/recipe.yaml", "recipe.yaml", "pictures/a.png"):
        for target in (tmp_path / path, "/runs/" + path):
            content = b"{}\n"
            if isinstance(target, Path):
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(content)
            else:
                system.pipe_file(target, content)
    assert Store(bucket).runs() == Store(tmp_path).runs()
    assert [run.name for run in Store(bucket).runs()] == ["broken", "run 0", "run 1", "run 2"]
    assert Store(bucket).run("run 2") == Store(tmp_path).run("run 2")
    assert Store(bucket).run("pictures") is Store(bucket).run("nothing") is None


def test_an_unreachable_bucket_is_an_error(bucket: str) -> None:
    store = Store(bucket)
    TestBucket.failing.add("list")
    with pytest.raises(InputError, match=r"cannot be read \(the network is away\)"):
        store.runs()
    with pytest.raises(InputError, match=r"cannot be reached \(the network is away\)"):
        Store(bucket)


def test_files_and_other_folders_are_not_runs(tmp_path: Path) -> None:
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


RECIPE = runs.recipe()
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
        ({"metrics.jsonl": "[1]\n"}, 0, "line 1 of metrics.jsonl has no epoch"),
        ({"metrics.jsonl": LINES + "{}\n"}, 0, "line 4 of metrics.jsonl has no epoch"),
        ({"recipe.yaml": None}, 0, "no recipe.yaml"),
        ({"recipe.yaml": ""}, 0, "cut short"),
        ({"recipe.yaml": "a: [1"}, 0, "cannot be read"),
        ({"recipe.yaml": "- 1\n"}, 0, "no fields"),
        ({"recipe.yaml": "!!python/object/apply:os.system ['false']\n"}, 0, "cannot be read"),
        ({"recipe.yaml": RECIPE[: RECIPE.index("schedule")]}, 0, "incomplete: schedule.epochs is missing"),
        ({"recipe.yaml": RECIPE[: RECIPE.index("seed")]}, 0, "incomplete: seed is missing"),
        ({"recipe.yaml": RECIPE[:-2]}, 0, "incomplete"),
        ({"recipe.yaml": RECIPE.replace("schedule:", "schedule: 3\nother:")}, 0, "no fields in schedule"),
        ({"recipe.yaml": "[" * 5000}, 0, "cannot be read"),
        ({"environment.json": "{"}, 0, "environment.json is no JSON"),
        ({"environment.json": "[]"}, 0, "environment.json has no fields"),
    ],
)
def test_broken_runs_have_a_problem_and_torn_lines_are_ignored(
    tmp_path: Path, files: dict[str, str | None], epochs: int, problem: str
) -> None:
    write_run(tmp_path, "good")
    folder = write_run(tmp_path, "bad")
    for name, content in files.items():
        (folder / name).unlink() if content is None else (folder / name).write_text(content)
    for run in (by_name(Store(tmp_path))["bad"], Store(tmp_path).run("bad")):
        assert run.epochs == epochs
        assert problem in run.problem
        assert bool(problem) == bool(run.problem)
        assert not problem or not (run.finished or run.epochs_planned or run.seed)
        assert "\n" not in run.problem
    assert by_name(Store(tmp_path))["good"].finished


def test_a_folder_with_only_checkpoints_is_a_broken_run(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (run,) = Store(tmp_path).runs()
    assert "no recipe.yaml" in run.problem


def test_unreadable_files_are_read_again_later(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run")
    (folder / "environment.json").unlink()
    (folder / "environment.json").mkdir()
    store = Store(tmp_path)
    assert "environment.json cannot be read" in store.runs()[0].problem
    (folder / "environment.json").rmdir()
    assert store.runs()[0].finished


def test_a_folder_without_permission_is_a_broken_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("good", "secret"):
        write_run(tmp_path, name)
    stat = os.stat

    def failing_stat(path: Any, *rest: Any, **options: Any) -> os.stat_result:  # because root may read everything
        if "secret/" in os.fspath(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return stat(path, *rest, **options)

    def failing_read(path: Any, most: int) -> bytes:
        failing_stat(path)
        return read_regular(path, most)

    monkeypatch.setattr(os, "stat", failing_stat)
    monkeypatch.setattr("regard.store.runs.read_regular", failing_read)
    listed = by_name(Store(tmp_path))
    assert listed["good"].finished and "Permission denied" in listed["secret"].problem


def test_files_over_the_size_limit_are_not_read(tmp_path: Path, bucket: str) -> None:
    store = Store(bucket)
    for name in ("good", "large"):
        store.upload(write_run(tmp_path, name))
    fsspec.filesystem("testbucket").pipe_file("/runs/large/metrics.jsonl", bytes(2**26 + 1))
    TestBucket.traffic.clear()
    listed = by_name(store)
    assert listed["good"].finished
    assert "metrics.jsonl cannot be read" in listed["large"].problem
    assert "read good/metrics.jsonl" in TestBucket.traffic and "read large/metrics.jsonl" not in TestBucket.traffic


def test_keys_and_dates_of_recipes_are_text(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run")
    recipe = runs.recipe().replace("options: {}", "options: {1: 2020-01-01}", 1)
    (folder / "recipe.yaml").write_text(recipe)
    (run,) = Store(tmp_path).runs()
    assert run.recipe["data"]["options"] == {"1": "2020-01-01"}


def test_seeds_are_parsed_as_yaml(tmp_path: Path) -> None:
    """The seed is read from the text of recipes that are otherwise equal, as YAML would read it."""
    for number, seed in enumerate(("0", "17", "9223372036854775807", "0x1F", "010", "1_000")):
        folder = write_run(tmp_path, f"run{number}")
        (folder / "recipe.yaml").write_text(runs.recipe().replace("seed: 0", f"seed: {seed}"))
    (write_run(tmp_path, "run6") / "recipe.yaml").write_text(runs.recipe() + "seed: 5\n")  # the last seed counts
    assert [run.seed for run in Store(tmp_path).runs()] == [0, 17, 9223372036854775807, 31, 8, 1000, 5]


def test_importing_the_store_does_not_import_torch() -> None:
    code = "import sys, regard.store, regard.cli.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_addresses_are_parsed_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Store(tmp_path.as_uri()).folder == tmp_path
    assert Store(str(tmp_path)).address == str(tmp_path)
    assert Store("memory://addresses/x").folder is None
    assert Store("memory://addresses/x/").address == "memory://addresses/x"
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
