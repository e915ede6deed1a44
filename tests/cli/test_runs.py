"""`regard runs`: what is in a store, on terminals of every width and in pipes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from regard.cli import runs
from regard.errors import InputError
from regard.store import Store
from regard.version import __version__

RECIPE = """data: {name: cifar10}
model:
  name: cifar-resnet164
  attention: se
  gate: sub-attention
  options: {}
schedule:
  epochs: 4
transfer:
  teacher: runs/a teacher-seed0
  beta: 1000.0
seed: 7
"""


def write(folder: Path, done: int, *, weights: bool = True) -> None:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "environment.json").write_text(json.dumps({"regard": __version__, "classes": ["a", "b"]}))
    rows = [{"epoch": epoch, "test_accuracy": 0.9 + epoch / 1000} for epoch in range(1, done + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if weights:
        (folder / "last.safetensors").write_text("")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "my runs"
    write(folder / "finished-run", 4)
    write(folder / "at-work", 2)
    write(folder / "stopped", 1)
    write(folder / "without-weights", 4, weights=False)
    (folder / "torn").mkdir()
    (folder / "torn" / "recipe.yaml").write_text("[")
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert runs.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_pipe_gets_whole_lines(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(store / ("a-long-name" * 20), 4)
    with Store(store).lock("at-work"):
        header, *lines, totals = printed(capsys, store)
    assert header.split() == ["run", "epochs", "accuracy,", "%", "network", "seed", "version", "state"]
    by_name = {line.split()[0]: line for line in lines}
    assert list(by_name) == sorted(by_name)
    network = "cifar-resnet164, se, sub-attention, from a teacher-seed0"
    assert by_name["finished-run"].split("  ")[-1] == "finished"
    for words in ("4/4", "90.40", network, "7", __version__):
        assert words in by_name["finished-run"]
    assert by_name["at-work"].endswith(f"being run by pid {os.getpid()} on {os.uname().nodename}")
    assert "2/4" in by_name["at-work"]
    assert by_name["stopped"].endswith("unfinished")
    assert "broken: recipe.yaml cannot be read (this is no YAML: " in by_name["torn"]
    assert by_name["without-weights"].endswith("broken: it has no last.safetensors")
    assert "a-long-name" * 20 in by_name
    assert totals == "6 runs: 2 finished, 1 being run, 1 unfinished, 2 broken"


def test_unfinished_ones_alone(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, *lines, totals = printed(capsys, store, "--unfinished")
    assert [line.split()[0] for line in lines] == ["at-work", "stopped", "torn", "without-weights"]
    assert totals == "5 runs: 1 finished, 2 unfinished, 2 broken"
    for name in ("at-work", "stopped", "torn", "without-weights"):
        (store / name).rename(store / f".{name}")
    assert printed(capsys, store, "--unfinished") == ["1 run: 1 finished"]


def test_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = {record["run"]: record for record in json.loads("\n".join(printed(capsys, store, "--json")))}
    assert records["finished-run"] == {
        "run": "finished-run",
        "epochs": 4,
        "epochs_asked": 4,
        "test_accuracy": 0.904,
        "network": "cifar-resnet164, se, sub-attention, from a teacher-seed0",
        "seed": 7,
        "version": __version__,
        "state": "finished",
        "about": "finished",
    }
    assert records["torn"]["state"] == "broken"
    assert records["torn"]["test_accuracy"] is records["torn"]["seed"] is None
    assert len(json.loads("\n".join(printed(capsys, store, "--json", "--unfinished")))) == 4


@pytest.mark.parametrize(
    ("width", "there", "left_out"),
    [(200, {"version", "network"}, set()), (100, {"network"}, {"version"}), (60, {"state"}, {"version", "network"})],
)
def test_terminals(
    store: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    there: set[str],
    left_out: set[str],
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(runs, "Console", lambda: Console(width=width, file=sys.stdout, force_terminal=False))
    lines = printed(capsys, store)
    assert max(map(len, lines)) <= width
    (header,) = (line for line in lines if "epochs" in line)
    assert all(name in header for name in there)
    assert not any(name in header for name in left_out)
    for name in ("finished-run", "at-work", "4/4", "90.40"):
        assert any(name in line for line in lines)
    assert lines[-1].startswith("5 runs: 1 finished")


def test_what_is_wrong_is_said(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there is no store runs"):
        runs.main([])
    with pytest.raises(InputError, match="there is no store memory"):
        runs.main(["memory://nothing/here"])
    with pytest.raises(InputError, match="is a file"):
        runs.main([str(store / "torn" / "recipe.yaml")])
    with pytest.raises(InputError, match="--nonsense"):
        runs.main(["--nonsense"])
    (tmp_path / "runs").mkdir()
    assert printed(capsys) == ["runs has no runs"]
    assert printed(capsys, "--json") == ["[]"]


def test_names_that_a_terminal_would_obey(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(store / "red\x1b[31m", 4)
    lines = printed(capsys, store)
    assert not any("\x1b" in line for line in lines)
    assert any("red" in line and "x1b" in line for line in lines)
