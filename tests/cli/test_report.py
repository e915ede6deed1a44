"""`regard report` from the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.buckets import TestBucket, bucket

from regard import data, training
from regard.cli import main
from regard.store import Store

pytestmark = pytest.mark.slow

CLUTTER = '--data.options={"train": 40, "test": 60}'
ACCURACIES = {"plain": (0.5, 0.6, 0.55), "se": (0.7, 0.65, 0.6)}


def write_run(folder: Path, name: str, accuracy: float, *options: str, epochs: int = 3) -> training.Run:
    splits = data.load("clutter", train=40, test=60)
    base = ["--model.name=wrn-10-0.5", "--schedule.epochs=3", "--schedule.milestones=[2]", "--device=cpu", CLUTTER]
    recipe = training.load_recipe(None, [*base, *options])
    recipe = replace(recipe, data=replace(recipe.data, mean=splits.train.mean, std=splits.train.std))
    run = training.Run.create(folder / name, recipe, splits.test.classes)
    rows = [
        {"epoch": i + 1, "task": 2.0 - 0.1 * i, "test_accuracy": accuracy, "test_images": 60} for i in range(epochs)
    ]
    run.write_metrics(rows)
    if epochs:
        torch.manual_seed(0)
        run.save_weights(training.make_model(recipe, 10), "last", epochs, accuracy)
    return run


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks of three seeds each."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    for seed in range(3):
        for name, accuracies in ACCURACIES.items():
            options = ["--model.attention=se"] if name == "se" else []
            write_run(folder, f"{name}-seed{seed}", accuracies[seed], f"--seed={seed}", *options)
    return folder


@pytest.fixture
def store(trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_runs, tmp_path / "runs")
    return tmp_path / "runs"


def page(*arguments: str) -> str:
    examples = [] if any("examples" in argument for argument in arguments) else ["--examples=0"]
    assert main(["report", *arguments, *examples]) == 0
    return Path("report.html").read_text(encoding="utf-8")


def check_error(capsys: pytest.CaptureFixture[str], message: str, *arguments: str) -> None:
    assert main(["report", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_store_is_reported_on_one_page(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page("--examples=2")
    assert str(store.parent / "report.html") in capsys.readouterr().err
    for name, accuracies in ACCURACIES.items():
        values = 100 * np.array(accuracies)
        assert f"{values.mean():.2f} ± {values.std(ddof=1):.2f}%" in text
        assert all(f">{value:.1f}%" in text for value in values)
        assert f"{name}.yaml" in text
    assert text.count("<img") == 2 * 3
    assert "<script" not in text and "http://www.w3.org" not in text.replace("xmlns", "")
    again = page("--examples=2", "runs", "runs/*-seed1")  # options before positionals
    assert again == text  # the same runs, named twice


def test_json_prints_records(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page("--json", "--quiet")
    printed = capsys.readouterr()
    records = json.loads(printed.out)
    assert printed.err == ""
    assert [record["accuracy"] for record in records if record["record"] == "run"] == [
        accuracy for accuracies in ACCURACIES.values() for accuracy in accuracies
    ]
    (comparison,) = [record for record in records if record["record"] == "comparison"]
    assert (comparison["network"], comparison["reference"], comparison["n"]) == ("se", "plain", 3)
    assert comparison["significant"] is False and comparison["p"] > 0.05


def test_broken_runs_get_notes_beside_valid_runs(store: Path) -> None:
    (store / "broken").mkdir()
    (store / "broken" / "recipe.yaml").write_text("data: [")
    write_run(store, "half-seed7", 0.9, "--seed=7", epochs=1)
    with open(store / "plain-seed0" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "test_acc')
    (store / "se-seed1" / "environment.json").unlink()
    (store / "se-seed2" / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    text = page()
    for name in ("broken", "half-seed7", "se-seed2"):
        assert f'<td class="text">{name}</td>' in text
    for values in (100 * np.array(ACCURACIES["plain"]), 100 * np.array(ACCURACIES["se"][:2])):
        assert f"{values.mean():.2f} ± {values.std(ddof=1):.2f}%" in text


def test_networks_with_other_test_images_form_their_own_part(store: Path) -> None:
    write_run(store, "cued", 0.9, '--data.options={"train": 40, "test": 60, "test_cue": 0.9}')
    text = page()
    first, second = text.split('class="part"')[1:]
    assert "test_cue 0.9" in second and "se" in first and ">cued" not in first
    assert text.count("Differences from") == 1  # the other part has a single network
    ids = [part.split('"')[0] for part in text.split(' id="')[1:]]
    assert len(ids) == len(set(ids))


def test_names_reference_and_title_are_set_by_options(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "<script>alert(1)</script>"
    text = page(f"--names={hostile},b", "--reference=b", "--title=<b>T</b>")
    assert "<script" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "<b>T" not in text
    assert "Differences from b" in text
    check_error(capsys, "did you mean 'plain'", "--reference=plan", "--examples=0")


def test_wrong_paths_are_errors_and_overwrite_nothing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("report.html").write_text('<meta name="generator" content="regard 0">')
    check_error(capsys, "nowhere", "nowhere")
    check_error(capsys, "--examples is -1", "runs", "--examples=-1")
    assert "regard 0" in Path("report.html").read_text()
    Path("report.html").write_text("a person's")
    check_error(capsys, "report.html is not overwritten", "runs")
    assert Path("report.html").read_text() == "a person's"
    Path("report.html").write_text("")
    write_run(Path("begun"), "fresh", 0.0, epochs=0)
    check_error(capsys, "no run to report: fresh", "begun")
    shutil.rmtree(store)
    check_error(capsys, "there is no folder runs")


def test_missing_data_are_noted_and_given_by_option(store: Path) -> None:
    for path in store.glob("*/recipe.yaml"):
        fields = yaml.safe_load(path.read_text())
        fields["data"] |= {"name": "folder", "folder": "/gone", "options": {}}
        path.write_text(yaml.safe_dump(fields))
    text = page("--examples=2")
    assert "no test images" in text and "/gone" in text and "multiply-adds depend on" in text
    clutter = data.load("clutter", train=40, test=60)
    for split, images_of_split in (("train", clutter.train), ("test", clutter.test)):
        for i, (pixels, label) in enumerate(zip(images_of_split.images, images_of_split.labels, strict=True)):
            class_folder = Path("here") / split / images_of_split.classes[int(label)]
            class_folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(class_folder / f"{i:03}.png")
    text = page("--examples=2", "--data.folder=here")
    assert text.count("<img") == 2 * 3 and "multiply-adds depend on" not in text


def test_published_tables_of_the_runs_are_shown(store: Path) -> None:
    for column, accuracy in (("resnet29-se-cifar10", 0.4), ("resnet29-lsas-se-cifar10", 0.5)):
        recipe = training.load_recipe(f"lsas/{column}")
        run = training.Run.create(Path("filled") / f"{column}-seed0", recipe, tuple("abcdefghij"))
        epochs = recipe.schedule.epochs
        row = {"epoch": epochs, "task": 1.0, "test_accuracy": accuracy, "test_images": 10_000}
        run.write_metrics([{**row, "epoch": i + 1} for i in range(epochs)])
        run.save_weights(training.make_model(recipe, 10), "last", epochs, accuracy)
    text = page("filled")
    assert "Published tables" in text and "one seed" in text and "+10.00" in text
    assert "Published tables" not in page("runs")
    assert json.loads((Path("filled") / "resnet29-se-cifar10-seed0" / "environment.json").read_text())


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))
    with bucket() as address:
        yield address


def test_runs_in_a_bucket_are_downloaded_once(
    trained_runs: Path, tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checkpoints are not downloaded."""
    store = Store(address)
    for folder in sorted(trained_runs.iterdir()):
        copy = shutil.copytree(folder, tmp_path / "work" / folder.name)
        (copy / "checkpoints").mkdir()
        (copy / "checkpoints/step-000000003.pt").write_bytes(bytes(1000))
        store.upload(copy)
    shutil.rmtree(tmp_path / "work")
    page_of_all = page(address)
    assert "se" in page_of_all and "Differences from plain" in page_of_all
    recipes = list((tmp_path / "cache").rglob("*/recipe.yaml"))
    assert len(recipes) == 6 and not list((tmp_path / "cache").rglob("*.pt"))
    TestBucket.failing.add("get")  # all files are in the cache
    assert page(address) == page_of_all
    assert "plain-seed1" in page(f"{address}/plain-seed1/")
    check_error(capsys, "there is no run at testbucket://runs/none", "testbucket://runs/none")
    assert page(f"file://{trained_runs}") == page(str(trained_runs))
