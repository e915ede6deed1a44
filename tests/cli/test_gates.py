"""`regard gates` from the command line."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest
import torch

from regard import data, training
from regard.cli import main
from regard.studies import gate_activations

CLUTTER = '--data.options={"train": 40, "test": 60}'


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of networks with random weights: shuffle attention with and without the shuffle, SE, and no attention."""
    folder = tmp_path_factory.mktemp("runs")
    splits = data.load("clutter", train=40, test=60)
    shuffle = ["--model.attention=shuffle", "--model.attention_options={groups: 2}"]
    unshuffled = ["--model.attention=shuffle", "--model.attention_options={groups: 2, shuffle: false}"]
    model_options = {
        "shuffle": shuffle,
        "still": unshuffled,
        "se": ["--model.attention=se", "--model.attention_options={reduction: 2}"],
        "plain": [],
    }
    for seed, (name, options) in enumerate(model_options.items()):
        recipe = training.load_recipe(None, ["--model.name=wrn-10-0.5", "--device=cpu", CLUTTER, *options])
        recipe = replace(recipe, data=replace(recipe.data, mean=splits.train.mean, std=splits.train.std))
        run = training.Run.create(folder / name, recipe, splits.test.classes)
        torch.manual_seed(seed)
        model = training.make_model(recipe, 10)
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


def test_several_networks_are_measured_and_reported(call, runs, tmp_path) -> None:
    status, out, err = call("shuffle", "still", "--device=cpu", "--out=study", "--json")
    assert status == 0 and "study" in err
    content = json.loads((tmp_path / "study" / "gates.json").read_text())
    page = (tmp_path / "study" / "gates.html").read_text()
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == ["gates.html", "gates.json"]
    assert (content["data"], content["quantity"]) == ("clutter test", "gate")
    assert json.loads(out) == content["records"]
    images = data.load("clutter", train=40, test=60).test
    for name in ("shuffle", "still"):
        model = training.load_pretrained(str(runs / name)).model()
        result = gate_activations(model, data.create_loader(images, 60).epoch(0))
        layers, channels = (
            [record for record in content[key] if record["network"] == str(runs / name)]
            for key in ("records", "channels")
        )
        assert [layer["layer"] for layer in layers] == list(result.layers)
        for layer, expected in zip(layers, result.layers.values(), strict=True):
            assert layer["eta_squared"] == pytest.approx(expected.eta_squared, rel=1e-4)
            means = [record["mean"] for record in channels if record["layer"] == layer["layer"]]
            assert means == pytest.approx(expected.by_class.overall.tolist(), rel=1e-4)
            assert f"{layer['eta_squared']:.3f}" in page
    assert "regard gates " in page and "clutter test" in page


def test_the_recorded_command_repeats_the_study(call, tmp_path, capsys) -> None:
    assert call("--quiet", "--class", "7,1", "se", "--layer=group1", "--device", "cpu")[0] == 0
    path = tmp_path / "gates-clutter-test" / "gates.json"
    before = json.loads(path.read_text())
    program, command, *arguments = shlex.split(before["command"])
    assert (program, command) == ("regard", "gates")
    assert main([command, *arguments, "--out=again"]) == 0
    again = json.loads((tmp_path / "again" / "gates.json").read_text())
    assert (again["records"], again["channels"]) == (before["records"], before["channels"])


def test_classes_layers_and_quantity_are_selected(call, tmp_path) -> None:
    options = ["--class=7,1,2", "--layer=group1,group2", "--quantity=output", "--per-class=3", "--device=cpu"]
    status, out, err = call("se", *options, "--quiet")
    assert (status, err) == (0, "")
    content = json.loads((tmp_path / "gates-clutter-test" / "gates.json").read_text())
    assert content["quantity"] == "output"
    assert [layer["layer"] for layer in content["records"]] == ["group1.block0.attention", "group2.block0.attention"]
    assert [key for key in content["channels"][0] if key.startswith("mean of ")] == [
        "mean of 7",
        "mean of 1",
        "mean of 2",
    ]
    assert "group1.block0.attention" in out


def test_equal_images_by_other_options_are_accepted(call) -> None:
    status, _, _ = call("se", "shuffle", "--data=clutter", CLUTTER, "--layer=group0", "--device=cpu")
    assert status == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MODEL is missing"),
        (["none"], "no run folder none"),
        (["plain"], "plain: WideResNet has no attention module of regard; train a model with one (--model.attention "),
        (["se", "plain"], "has no attention module of regard"),
        (["se", "--layer=group7"], "unknown layer 'group7'"),
        (["se", "--layer=conv0"], "layer 'conv0' contains no attention module"),
        (["se", "--class=7,cat"], "clutter has no class 'cat'"),
        (["se", "--per-class=0"], "--per-class is 0"),
        (["se", "--quantity=gates"], "gates"),
        (["se", "--lairs=group1"], "did you mean --layer?"),
        (["se", "--out=file"], "file is a file"),
        (["se", "shuffle", "se"], "named twice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_a_one_line_error(call, tmp_path, arguments, message) -> None:
    (tmp_path / "file").write_text("before")
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert message in err and err.count("regard: ") == 1, err
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "before"
