"""`regard runs`: the runs of a store, on terminals of every width and in pipes."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest

from regard.cli import main
from regard.console import Console
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
    assert main(["runs", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def rows(lines: list[str]) -> dict[str, str]:
    """Returns the rows of a table by their first word, without the caption."""
    start = next(i for i, line in enumerate(lines) if set(line.strip()) == {"─"})
    return {line.split()[0]: line.strip() for line in lines[start + 1 : -1] if line.strip()}


def test_piped_output_is_not_truncated(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(store / ("a-long-name" * 20), 4)
    with Store(store).lock("at-work"):
        lines = printed(capsys, store)
    assert lines[1].split() == ["run", "epochs", "accuracy,", "%", "network", "seed", "version", "state"]
    by_name = rows(lines)
    assert list(by_name) == sorted(by_name) and "a-long-name" * 20 in by_name
    assert by_name["finished-run"].endswith("finished")
    for text in ("4/4", "90.40", "cifar-resnet164, se, sub-attention, from a teacher-seed0", "7", __version__):
        assert text in by_name["finished-run"]
    assert by_name["at-work"].endswith(f"being run by pid {os.getpid()} on {os.uname().nodename}")
    assert "2/4" in by_name["at-work"]
    assert by_name["stopped"].endswith("unfinished")
    assert "broken: recipe.yaml cannot be read (this is no YAML: " in by_name["torn"]
    assert by_name["without-weights"].endswith("broken: it has no last.safetensors")
    assert lines[-1] == "finished: 2, running: 1, unfinished: 1, broken: 2"


def test_unfinished_lists_unfinished_runs_alone(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, store, "--unfinished")
    assert list(rows(lines)) == ["at-work", "stopped", "torn", "without-weights"]
    assert lines[-1] == "finished: 1, unfinished: 2, broken: 2"
    for name in ("at-work", "stopped", "torn", "without-weights"):
        (store / name).rename(store / f".{name}")
    assert printed(capsys, "--unfinished", store) == ["finished: 1"]


def test_json_prints_one_record_per_run(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = {record["run"]: record for record in json.loads("\n".join(printed(capsys, store, "--json")))}
    assert records["finished-run"] == {
        "run": "finished-run",
        "epochs": 4,
        "epochs_planned": 4,
        "test_accuracy": 0.904,
        "test_box_ap": None,
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
    ("width", "columns", "missing"),
    [(200, {"version", "network"}, set()), (100, {"network"}, {"version"}), (60, {"state"}, {"version", "network"})],
)
def test_narrow_terminals_leave_columns_out(
    store: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    columns: set[str],
    missing: set[str],
) -> None:
    monkeypatch.setattr("regard.cli.command.Console", partial(Console, color_system=None, width=width))
    monkeypatch.setattr(Console, "is_terminal", True)
    lines = printed(capsys, store)
    assert max(map(len, lines)) <= width
    header = next(line for line in lines if "epochs" in line)
    assert all(name in header for name in columns)
    assert not any(name in header for name in missing)
    for name in ("finished-run", "at-work", "4/4", "90.40"):
        assert any(name in line for line in lines)
    assert lines[-1] == "finished: 1, unfinished: 2, broken: 2"


def test_wrong_stores_are_errors_and_empty_ones_are_not(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        ([], "there is no store runs"),
        (["memory://nothing/here"], "there is no store memory"),
        ([str(store / "torn" / "recipe.yaml")], "is a file"),
        (["--nonsense"], "--nonsense"),
    ):
        assert main(["runs", *arguments]) == 2 and message in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    assert printed(capsys) == ["no runs"]
    assert printed(capsys, "--json") == ["[]"]


def test_control_characters_in_names_are_escaped(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(store / "red\x1b[31m", 4)
    lines = printed(capsys, store)
    assert not any("\x1b" in line for line in lines)
    assert any("red" in line and "x1b" in line for line in lines)
