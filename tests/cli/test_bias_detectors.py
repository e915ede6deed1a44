"""`regard bias` and `regard explain` of detectors, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.scenes import write_scenes

from regard.bias import Results
from regard.cli import main

pytestmark = pytest.mark.slow

OPTIONS = ("--data=coco:scenes", "--score=0", "--workers=0", "--method=layercam", "--quiet")


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scenes, and two runs of a small detector."""
    folder = tmp_path_factory.mktemp("detectors")
    write_scenes(folder / "scenes", 2, 3)
    small = "{strides: [1, 2, 4], channels: 8, frozen_stages: 0, score_thresh: 0.0}"
    (folder / "recipe.yaml").write_text(
        f"data: {{name: coco, folder: {folder}/scenes, size: 32, workers: 0}}\n"
        f"model: {{name: cifar-resnet20, detector: retinanet, options: {{block: basic}}, detector_options: {small}}}\n"
        "schedule: {epochs: 1, batch_size: 2}\noptimizer: {lr: 0.001}\n"
    )
    for seed, name in enumerate(("one", "two")):
        assert main(["train", f"{folder}/recipe.yaml", "--run", f"{folder}/{name}", f"--seed={seed}", "--quiet"]) == 0
    return folder


@pytest.fixture
def here(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(data_folder)
    return data_folder


def test_two_detectors_are_measured_compared_and_shown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*OPTIONS, "--box-regions", "--detections=4", "--examples=8", "--out=report", "--json"]
    assert main(["bias", "one", "two", *options]) == 0
    records = json.loads(capsys.readouterr().out)
    first, second = (Results.load(here / f"report/{name}.json") for name in ("one", "two"))
    assert first.of_detections and first.layer == "backbone.body.layer3" and 3 < len(first) <= 12
    assert (
        first.provenance["score_threshold"] == 0
        and first.provenance["region"] == "box"
        and "--detections=4" in first.provenance["options"]
    )
    values = {
        (record["model"], record["part"], record["name"], record["measure"]): record for record in records["results"]
    }
    assert values["one", "all", "", "images"]["value"] == len(first)
    assert values["two", "all", "", "accuracy"]["value"] == second.rows["correct"].mean()
    page = (here / "report/report.html").read_text()
    assert "rgb(255, 214, 0)" in page and "one: " in page and "two: " in page
    assert page.count('<div class="row">') == 8
    assert main(["bias", "one", "two", *OPTIONS, "--detections=5", "--out=report"]) == 2
    assert "another evaluation: limit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one", "--target=label"], "--target is for classifiers"),
        (["one", "--threshold=0"], "threshold is 0"),
        (["one", "--method=drise", "--layer=backbone.body.layer3"], "D-RISE has no layer"),
        (["one", "--layer=layer3"], "unknown layer"),
        (["one", "resnet18"], "one is a detector, resnet18 a classifier"),
        (["one", "--score=1"], "detects nothing"),
        (["one", "--masks=5"], "--masks is for --method drise"),
        (["resnet18", "--box-regions"], "--box-regions is for detectors"),
    ],
)
def test_wrong_options_are_a_one_line_error(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["bias", *arguments, "--out=wrong", "--workers=0", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("regard: ") == 1


def test_explain_draws_a_map_for_each_detection(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["scenes/val2017/000.png", "--model=one", "--method=layercam", "--out=shown", "--quiet"]
    assert main(["explain", *options, "--score=0", "--top=2", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert len(records) == 2 and all(len(record["box"]) == 4 for record in records)
    assert records[0]["probability"] >= records[1]["probability"]
    assert all((here / "shown" / record["map"]).is_file() for record in records)
    assert "box of the detection" in (here / "shown/explain.html").read_text()
    assert main(["explain", *options[:-1], "--score=1", "--overwrite", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out) == [] and not list((here / "shown").glob("*.png"))
    page = (here / "shown/explain.html").read_text()
    assert all("lower it (--score)" in text for text in (output.err, page))
    assert main(["explain", *options, "--class=disc", "--overwrite"]) == 2
    assert "--class is for classifiers" in capsys.readouterr().err
    assert main(["explain", "scenes/val2017/000.png", "--model=resnet18", "--score=0.1", "--out=other"]) == 2
    assert "--score is for detectors" in capsys.readouterr().err and not (here / "other").exists()
