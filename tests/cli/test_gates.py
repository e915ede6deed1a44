"""`regard gates`, as a person types it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from regard import data, training
from regard.cli import main
from regard.studies import gate_activations

CLUTTER = '--data.options={"train": 40, "test": 60}'


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Small networks with drawn weights: with shuffle, without, with another module, and without attention."""
    folder = tmp_path_factory.mktemp("runs")
    splits = data.load("clutter", train=40, test=60)
    shuffle = ["--model.attention=shuffle", "--model.attention_options={groups: 2}"]
    still = ["--model.attention=shuffle", "--model.attention_options={groups: 2, shuffle: false}"]
    kinds = {
        "shuffle": shuffle,
        "still": still,
        "se": ["--model.attention=se", "--model.attention_options={reduction: 2}"],
        "plain": [],
    }
    for seed, (name, own) in enumerate(kinds.items()):
        made = training.load_recipe(None, ["--model.name=wrn-10-0.5", "--device=cpu", CLUTTER, *own])
        made = replace(made, data=replace(made.data, mean=splits.train.mean, std=splits.train.std))
        run = training.Run.create(folder / name, made, splits.test.classes)
        torch.manual_seed(seed)
        model = training.make_model(made, 10)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        run.save_weights(model, "last", 1, 0.1)
    return folder


@pytest.fixture
def call(capsys, monkeypatch, runs, tmp_path):
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        status = main(["gates", *(str(runs / a) if (runs / a).is_dir() else a for a in arguments)])
        return status, *capsys.readouterr()

    return call


def test_networks_side_by_side(call, runs, tmp_path) -> None:
    status, out, err = call("shuffle", "still", "--device=cpu", "--out=study")
    assert (status, err) == (0, "")
    record = json.loads((tmp_path / "study" / "gates.json").read_text())
    page = (tmp_path / "study" / "gates.html").read_text()
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == ["gates.html", "gates.json"]
    assert record["data"] == "clutter test" and record["of"] == "gate"
    assert sum(one["images"] for one in record["classes"].values()) == 60
    images = data.load("clutter", train=40, test=60).test
    for name, one in zip(("shuffle", "still"), record["networks"], strict=True):
        assert one["network"] == str(runs / name)
        model = training.load_pretrained(str(runs / name)).model()
        found = gate_activations(model, data.create_loader(images, 60).epoch(0))
        assert [layer["layer"] for layer in one["layers"]] == list(found.layers)
        for layer, expected in zip(one["layers"], found.layers.values(), strict=True):
            assert layer["class_share"] == pytest.approx(expected.class_share, rel=1e-4)
            assert layer["mean"] == pytest.approx(expected.by_class.overall.tolist(), rel=1e-4)
            assert f"{layer['class_share']:.3f}" in out and f"{layer['class_share']:.3f}" in page
    assert "regard gates " in page and "clutter test" in page
    assert "the study is" in out


def test_classes_layers_and_the_output(call, tmp_path) -> None:
    asked = ["--classes=7,1,2", "--layers=group1,group2", "--of=output", "--per_class=3", "--device=cpu"]
    status, out, err = call("se", *asked)
    assert (status, err) == (0, "")
    record = json.loads((tmp_path / "gates-clutter-test" / "gates.json").read_text())
    assert record["of"] == "output"
    assert {label: one["images"] for label, one in record["classes"].items()} == {"1": 3, "2": 3, "7": 3}
    (one,) = record["networks"]
    assert [layer["layer"] for layer in one["layers"]] == ["group1.block0.attention", "group2.block0.attention"]
    assert list(one["layers"][0]["by_class"]) == ["7", "1", "2"]
    assert "mean output" in " ".join(out.split())


def test_the_same_images_by_another_way_are_the_same(call) -> None:
    status, _, err = call("se", "shuffle", "--data=clutter", CLUTTER, "--layers=group0", "--device=cpu")
    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name the network"),
        (["none"], "no run folder none"),
        (["plain"], "plain: WideResNet has no attention module of regard; train one with it (--model.attention se)"),
        (["se", "plain"], "has no attention module of regard"),
        (["se", "--layers=group7"], "unknown layer 'group7'"),
        (["se", "--layers=conv0"], "layer 'conv0' is and holds no attention module"),
        (["se", "--classes=7,cat"], "clutter has no class 'cat'"),
        (["se", "--per_class=0"], "--per_class 0; expected at least 1"),
        (["se", "--of=gates"], "gates"),
        (["se", "--lairs=group1"], "did you mean --layers?"),
        (["se", "--out=file"], "file is a file"),
        (["se", "shuffle", "se"], "named twice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line(call, tmp_path, arguments, words) -> None:
    (tmp_path / "file").write_text("before")
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert words in err and err.count("\n") == 1, err
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "before"


def test_help(capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main(["gates", "--help"])
    assert left.value.code == 0
    assert "--layers" in capsys.readouterr().out
