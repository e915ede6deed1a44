"""`regard table` from the command line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import yaml

from regard.cli import main
from regard.tables import Overrides, load_table
from regard.training import plain


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Made-up runs of LSAS in ResNet29: five seeds each, LSAS-SE two points better than SE."""
    folder = tmp_path / "runs"
    table = load_table("lsas-resnet29")
    for (_, column), cell in table.cells.items():
        for seed in range(5):
            run = folder / f"{column}-{seed}"
            run.mkdir(parents=True)
            recipe = cell.full_recipe
            assert recipe is not None
            recipe = Overrides(0.05).apply(recipe)
            (run / "recipe.yaml").write_text(yaml.safe_dump({**plain(recipe), "seed": seed}))
            (run / "environment.json").write_text(json.dumps({"regard": "0.1.0", "classes": ["a", "b"]}))
            accuracy = 0.80 + seed / 1000 + 0.02 * (column == "lsas-se")
            row = {"epoch": recipe.schedule.epochs, "test_accuracy": accuracy, "images_per_second": 100.0}
            (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
            (run / "last.safetensors").touch()
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["table", *arguments]) == 0
    return capsys.readouterr().out


def test_tables_are_listed_without_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    assert "attention-transfer-cifar10" in text and "sa-net-imagenet" in text


def test_a_table_is_shown_without_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = printed(capsys, "lsas-cifar")
    assert "94.57" in text and "95.01" in text and "–" in text


def test_runs_and_verdicts_are_shown(capsys: pytest.CaptureFixture[str], runs: Path) -> None:
    text = " ".join(printed(capsys, "lsas-resnet29", "--runs", str(runs)).split())
    assert "8 of 164" in text and "preliminary" in text
    assert "80.20" in text and "82.20" in text
    assert "+2.00" in text and "better" in text
    full_schedule = " ".join(printed(capsys, "lsas-resnet29", "--runs", str(runs), "--shorten", "1").split())
    assert "82.20" not in full_schedule and "--shorten 0.0" in full_schedule  # names the option that shows the runs


@pytest.mark.parametrize("suffix", ["md", "html", "tex", "csv", "txt"])
def test_the_same_runs_give_the_same_bytes(
    capsys: pytest.CaptureFixture[str], runs: Path, tmp_path: Path, suffix: str
) -> None:
    paths = [tmp_path / f"{number}.{suffix}" for number in range(2)]
    for path in paths:
        assert printed(capsys, "lsas-resnet29", "--runs", str(runs), "--out", str(path)).strip() == str(path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second and b"82.2" in first


def test_csv_holds_every_seed(capsys: pytest.CaptureFixture[str], runs: Path) -> None:
    text = printed(capsys, "lsas-resnet29", "--runs", str(runs), "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    record = next(line for line in lines if line["column"] == "se")
    assert record["seeds"] == "0;1;2;3;4"
    assert [float(value) for value in record["values"].split(";")] == pytest.approx([80 + i / 10 for i in range(5)])
    compared = printed(capsys, "lsas-resnet29", "--runs", str(runs), "--format", "csv-comparisons")
    (line,) = csv.DictReader(io.StringIO(compared))
    assert float(line["difference"]) == pytest.approx(2.0)


@pytest.mark.parametrize("form", ["markdown", "html", "latex", "csv", "csv-comparisons", "terminal"])
@pytest.mark.parametrize("place", ["folder", "/", ".", "x" * 300])
def test_an_unwritable_output_path_is_a_one_line_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch, form: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    assert main(["table", "lsas-cifar", "--format", form, "--out", place]) == 2
    error = capsys.readouterr().err
    assert f"cannot write {place}: " in error and error.count("\n") == 1
    assert list(tmp_path.rglob("*")) == [tmp_path / "folder"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "unknown table 'nonsense'"),
        (["lsas-cifa"], "did you mean 'lsas-cifar'"),
        (["lsas-cifar", "--rows", "cifar11"], "did you mean 'cifar10'"),
        (["lsas-cifar", "--runs", "no/such/store"], "no/such/store"),
        (["lsas-cifar", "--out", "no/such/folder/t.md"], "there is no folder"),
        (["lsas-cifar", "--out", "table.docx"], "the extension of table.docx"),
        (["lsas-cifar", "--format", "html"], "the format html needs a file"),
        (["lsas-cifar", "--shorten", "0"], "expected a share in (0, 1]"),
        (["my-table.yaml"], "there is no table file"),
        (["lsas-cifar", "--data.nam", "x"], "--data.nam"),
    ],
)
def test_wrong_input_is_a_one_line_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["table", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
