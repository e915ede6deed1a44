"""`regard groups` from the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from regard import data, maps, training
from regard.cli import main
from regard.data import InMemoryDataset

CLUTTER = '--data.options={"train": 40, "test": 60}'


@pytest.fixture(scope="module")
def clutter_images() -> InMemoryDataset:
    return data.load("clutter", train=40, test=60).test


@pytest.fixture(scope="module")
def runs(tmp_path_factory, clutter_images):
    """Runs of two small networks with random weights."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("first", "second")):
        recipe = training.load_recipe(None, ["--model.name=wrn-10-0.5", "--device=cpu", CLUTTER])
        recipe = replace(recipe, data=replace(recipe.data, mean=clutter_images.mean, std=clutter_images.std))
        run = training.Run.create(folder / name, recipe, clutter_images.classes)
        torch.manual_seed(seed)
        run.save_weights(training.make_model(recipe, 10), "last", 1, 0.1)
    return folder


@pytest.fixture
def call(capsys, monkeypatch, runs, tmp_path):
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        status = main(["groups", *(str(runs / a) if (runs / a).is_dir() else a for a in arguments)])
        return status, *capsys.readouterr()

    return call


def test_two_networks_are_scored_each_at_its_layer(call, runs, tmp_path, clutter_images) -> None:
    options = ["--layer=group1,group2", "--groups=4", "--class=3,7", "--per-class=2", "--out=study", "--device=cpu"]
    status, out, _ = call("first", "second", *options, "--json")
    assert status == 0
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == ["groups.html", "groups.json"]
    content = json.loads((tmp_path / "study" / "groups.json").read_text())
    page = (tmp_path / "study" / "groups.html").read_text()
    assert (content["target"], content["data"]) == ("label", "clutter test")
    assert json.loads(out) == content["records"]
    for name, layer in zip(("first", "second"), ("group1", "group2"), strict=True):
        model = training.load_pretrained(str(runs / name)).model()
        for label in (3, 7):
            indices = (clutter_images.labels == label).nonzero()[:, 0]
            indices = indices[[len(indices) // 4, 3 * len(indices) // 4]]
            images = next(iter(data.create_loader(clutter_images.subset(indices), 2).epoch(0))).images
            expected = maps.group_activation(model, layer, images, label, 4).mean(0)
            key = {"network": str(runs / name), "class": str(label)}
            scores = [score for score in content["groups"] if key.items() <= score.items()]
            assert [score["score"] for score in scores] == pytest.approx(expected.tolist(), rel=1e-3)
            assert [score["images"] for score in scores] == [2] * 4
            (record,) = (row for row in content["records"] if key.items() <= row.items())
            assert record["highest_group"] == int(expected.argmax()) + 1
            assert f"{100 * record['highest']:.1f}%" in page


def test_predicted_target_and_five_classes_by_default(call, tmp_path) -> None:
    status, _, err = call("first", "--layer=group2", "--groups=2", "--target=predicted", "--per-class=1", "--quiet")
    assert (status, err) == (0, "")
    content = json.loads((tmp_path / "groups-clutter-test" / "groups.json").read_text())
    assert content["target"] == "predicted"
    assert [record["class"] for record in content["records"]] == ["1", "3", "5", "7", "9"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--layer is missing"),
        (["first"], "--layer is missing"),
        (["first", "--layer=group9"], "unknown layer 'group9'"),
        (["first", "--layer=fc", "--groups=2"], "expected features"),
        (["first", "--layer=group1,group2", "--groups=2"], "2 layers for 1 network"),
        (["first", "second", "--layer=group2", "--groups=5"], "5 groups do not divide 32 channels"),
        (["first", "--layer=group2", "--groups=0"], "0 groups do not divide"),
        (["first", "--layer=group2", "--groups=two"], "two"),
        (["first", "--layer=group2", "--groups=2", "--class=ten"], "clutter has no class 'ten'"),
        (["first", "--layer=group2", "--groups=2", "--out=file"], "file is a file"),
        (["first", "--layer=group2", "--groups=2", "--target=labels"], "labels"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_a_one_line_error(call, tmp_path, arguments, message) -> None:
    (tmp_path / "file").write_text("before")
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert message in err and err.count("regard: ") == 1, err
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "before"


def test_unreadable_images_are_skipped_with_a_warning(call, tmp_path) -> None:
    paths = [tmp_path / "set" / name / f"{i}.png" for name in ("0", "1") for i in range(3)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(path)
    paths[0].write_text("no image")
    options = ["first", "--data=folder:set", "--layer=group2", "--groups=2", "--workers=0"]
    status, _, err = call(*options, "--unreadable=skip")
    assert status == 0 and "0/0.png" in err
    content = json.loads((tmp_path / "groups-folder" / "groups.json").read_text())
    assert [record["images"] for record in content["records"]] == [2, 3]
    for path in paths:
        path.write_text("no image")
    status, _, err = call(*options, "--unreadable=skip")
    assert status == 2 and "not one of the 6 images can be read" in err.splitlines()[-1]
