"""Broken and hostile run folders: commands name them and still show the valid runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from regard.cli import main
from regard.tables import Overrides, load_table
from regard.training import plain


def write(folder: Path, seed: int = 0, accuracy: Any = 0.08) -> Path:
    """Writes a run of a published table that finished with a schedule shortened to 5 percent."""
    folder.mkdir(parents=True)
    recipe = load_table("lsas-resnet29").cells["cifar10", "lsas-se"].full_recipe
    assert recipe is not None
    recipe = Overrides(0.05).apply(recipe)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**plain(recipe), "seed": seed}, sort_keys=False))
    (folder / "environment.json").write_text(json.dumps({"classes": ["a", "b"], "regard": "0.1.0"}))
    row = {"epoch": recipe.schedule.epochs, "test_accuracy": accuracy, "images_per_second": 100.0}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "last.safetensors").touch()
    return folder


def metrics(content: str | bytes) -> Callable[[Path], object]:
    content = content.encode() if isinstance(content, str) else content
    return lambda run: (run / "metrics.jsonl").write_bytes(content)


def environment(content: str) -> Callable[[Path], object]:
    return lambda run: (run / "environment.json").write_text(content)


def recipe(old: str, new: str) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        text = (run / "recipe.yaml").read_text()
        assert old in text
        (run / "recipe.yaml").write_text(text.replace(old, new, 1))

    return change


def replace_file(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        (run / name).unlink()
        make(run / name)

    return change


def link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


BOMB = (
    "[" + ", ".join(f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" if n else f"&a0 [{'x, ' * 9}]" for n in range(12)) + "]"
)
REPEATED = (f"b{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 9))
MERGES = f"{{a: &m0 {{k: 1}}, {', '.join(REPEATED)}}}"
HUGE = "1" + "0" * 400
BAD: dict[str, Callable[[Path], object]] = {
    "metrics-not-utf8": metrics(b'{"epoch": 8, "test_accuracy": 0.5, "note": "\xe9"}\n'),
    "metrics-no-json": metrics("<html>\n"),
    "metrics-no-fields": metrics("[8]\n"),
    "metrics-deep": metrics("[" * 100_000 + "\n"),
    "metrics-huge-rate": metrics(f'{{"epoch": 8, "test_accuracy": 0.5, "images_per_second": {HUGE}}}\n'),
    "metrics-huge-accuracy": metrics(f'{{"epoch": 8, "test_accuracy": {HUGE}}}\n'),
    "metrics-huge-epoch": metrics(f'{{"epoch": {HUGE}, "test_accuracy": 0.5}}\n'),
    "metrics-digits": metrics(f'{{"epoch": 8, "test_accuracy": {"1" * 5000}}}\n'),
    "metrics-million": metrics('{"epoch": 1}\n' * 1_000_000),
    "metrics-fifo": replace_file("metrics.jsonl", os.mkfifo),
    "metrics-device": replace_file("metrics.jsonl", link_to_device),
    "metrics-folder": replace_file("metrics.jsonl", Path.mkdir),
    "environment-device": replace_file("environment.json", link_to_device),
    "environment-fifo": replace_file("environment.json", os.mkfifo),
    "environment-not-utf8": lambda run: (run / "environment.json").write_bytes(b'{"classes": ["\xe9"]}'),
    "environment-deep": environment("[" * 100_000),
    "seed-tagged": recipe("seed: 0", "seed: !!bool foo"),
    "seed-huge": recipe("seed: 0", f"seed: {HUGE}"),
    "seed-digits": recipe("seed: 0", f"seed: {'1' * 5000}"),
    "seed-negative": recipe("seed: 0", "seed: -1"),
    "seed-float": recipe("seed: 0", "seed: !!float x"),
    "epochs-huge": recipe("epochs: 8", f"epochs: {HUGE}"),
    "data-list": recipe("name: cifar10", "name: [cifar10]"),
    "data-images-text": recipe("train_images: null", "train_images: many"),
    "data-options-number": recipe("options: {}", "options: 5"),
    "model-number": recipe("name: cifar-resnet29", "name: 29"),
    "teacher-number": recipe("teacher: null", "teacher: 5"),
    "teacher-numbers": recipe("teacher: null", "teacher: [5]"),
    "recipe-holds-itself": recipe("options: {}", "options: &o {a: *o}"),
    "recipe-bomb": recipe("options: {}", f"options: {{a: {BOMB}}}"),
    "recipe-merges": recipe("options: {}", f"options: {MERGES}"),
    "recipe-keys": recipe("options: {}", "options: {[1]: 2}"),
    "recipe-tag": recipe("options: {}", "options: {a: !!python/name:os.system}"),
    "recipe-large": recipe("source:", "#" * 2**21 + "\nsource:"),
}  # fmt: skip
# Faults in files and fields that only the report reads.
BAD_IN_REPORT: dict[str, Callable[[Path], object]] = {
    "classes-number": environment('{"classes": 5}'),
    "classes-lists": environment('{"classes": [["a"]]}'),
    "classes-many": environment(json.dumps({"classes": ["a"] * 200_000})),
    "batch-huge": recipe("batch_size: 128", f"batch_size: {2**63}"),
    "threads-many": recipe("threads: null", "threads: 100000"),
    "frozen-unknown": recipe("frozen: []", "frozen: [nothing]"),
    "model-unknown": recipe("name: cifar-resnet29", "name: resnetty"),
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write(tmp_path / "runs" / "good")
    return tmp_path / "runs"


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_broken_runs_are_named_beside_valid_runs(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, change in BAD.items():
        change(write(store / name))
    lines = {line.split()[0]: line for line in printed(capsys, "runs", store).splitlines() if line.strip()}
    assert lines["good"].split()[1:3] == ["8/8", "8.00"] and lines["good"].strip().endswith("finished")
    assert [name for name in BAD if "broken: " not in lines[name]] == []
    records = {record["run"]: record for record in json.loads(printed(capsys, "runs", store, "--json"))}
    assert records.keys() == {"good", *BAD}
    assert records["good"]["test_accuracy"] == 0.08 and records["good"]["state"] == "finished"
    assert {records[name]["state"] for name in BAD} == {"broken"}
    assert "8.00" in printed(capsys, "table", "lsas-resnet29", "--runs", store)


@pytest.mark.slow
def test_report_names_broken_runs_and_shows_valid_ones(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, change in (BAD | BAD_IN_REPORT).items():
        change(write(store / name))
    printed(capsys, "report", store, "--examples", "0", "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "8.0%" in page or "8.00" in page
    assert [name for name in BAD | BAD_IN_REPORT if name not in page] == []


NAMES = [
    "[red]x",
    "x]",
    "cat)",
    "a\nb",
    "\x1b[31mred",
    "\u202eevil",
    os.fsdecode(b"caf\xe9"),
    "$(touch ran)",
    "<b>&",
]


def test_hostile_run_names_are_escaped_in_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        write(Path("runs", name))
    texts = [
        printed(capsys, "runs", "runs"),
        printed(capsys, "runs", "runs", "--json"),
        printed(capsys, "table", "lsas-resnet29", "--runs", "runs"),
        printed(capsys, "report", "runs", "--examples", "0"),
        printed(capsys, "reproduce", "lsas-resnet29", "--runs", "runs", "--seeds", "1", "--dry-run"),
    ]
    assert [c for text in texts for c in text if c != "\n" and not c.isprintable()] == []
    lines = [line for line in texts[0].splitlines() if line.strip().endswith("finished")]
    assert len(lines) == len(NAMES)
    assert {record["run"] for record in json.loads(texts[1])} == set(NAMES)
    page = Path("report.html").read_text()
    assert "&lt;b&gt;&amp;" in page and "<b>&" not in page and "[red]x" in page
    assert not Path("ran").exists()
