"""Weights from other sources: imported with `regard import`, accepted by every other command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from regard import InputError, attention, data, models, training
from regard.bias import Results
from regard.cli import main
from regard.training.sources import load_teachers

pytestmark = pytest.mark.slow

SE = ["--attention=se", "--gate=sub-attention", "--attention_stages=[3]"]
CLUTTER = ["--data.name=clutter", "--data.options={train: 20, test: 40}", "--device=cpu"]


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    return status, *capsys.readouterr()


def lsas() -> torch.nn.Module:
    return models.create("cifar-resnet11", attention="se", gate=attention.SubAttention(1), attention_stages=(3,))


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def checkpoint(workdir) -> dict[str, torch.Tensor]:
    """Writes `best.pth.tar` in the format of LSAS and returns the state dict of its network."""
    torch.manual_seed(0)
    state = lsas().state_dict()
    published = {f"module.{k.replace('.attention', '').replace('.gate', '')}": v for k, v in state.items()}
    torch.save({"epoch": 164, "state_dict": published, "best_acc": 94.2}, workdir / "best.pth.tar")
    return state


def test_an_imported_file_works_in_other_commands(workdir, checkpoint, capsys) -> None:
    status, out, _ = run(capsys, "import", "best.pth.tar", "--model=cifar-resnet11", *SE, "--out=lsas.safetensors")
    assert status == 0
    parameters = sum(p.numel() for p in lsas().parameters())
    assert "cifar-resnet11" in out and f"{parameters:,}" in out
    assert sha256((workdir / "lsas.safetensors").read_bytes()).hexdigest() in out
    assert all(torch.equal(v, checkpoint[k]) for k, v in load_file(workdir / "lsas.safetensors").items())
    with safe_open(workdir / "lsas.safetensors", "pt") as file:
        assert list(file.metadata()) == ["notes"]
    imported = training.load_pretrained("lsas.safetensors")
    assert (imported.network.gate, imported.network.attention_stages) == ("sub-attention", [3])
    assert (imported.class_count, imported.classes, imported.preprocessing) == (10, None, training.Preprocessing())
    assert all(torch.equal(v, checkpoint[k]) for k, v in imported.model().state_dict().items())

    status, out, err = run(capsys, "evaluate", "lsas.safetensors", *CLUTTER, "--json")
    score = training.evaluate(imported.model(), data.create_loader(data.clutter(train=20, test=40).test, 40))
    assert status == 0 and "10 classes of lsas.safetensors have no names" in err
    assert json.loads(out)[0]["accuracy"] == score.accuracy

    assert run(capsys, "bias", "lsas.safetensors", *CLUTTER)[0] == 0
    assert "lsas.safetensors" in json.dumps(json.loads((workdir / "lsas.bias.json").read_text()))
    assert run(capsys, "bias", "lsas.safetensors", *CLUTTER, "--out=there")[0] == 0
    default, in_folder = Results.load(workdir / "lsas.bias.json"), Results.load(workdir / "there" / "lsas.json")
    assert default.to_dict()["summary"] == in_folder.to_dict()["summary"] and len(default) == 40


def test_importing_an_imported_file_keeps_its_weights(workdir, checkpoint, capsys) -> None:
    arguments = ["import", "best.pth.tar", "--model=cifar-resnet11", *SE]
    assert run(capsys, *arguments, "--out=a.safetensors")[0] == 0
    assert run(capsys, *arguments, "--out=b.safetensors")[0] == 0
    assert (workdir / "a.safetensors").read_bytes() == (workdir / "b.safetensors").read_bytes()
    reimport = ["import", "a.safetensors", "--model=cifar-resnet11", *SE, "--out=c.safetensors"]
    assert run(capsys, *reimport)[0] == 0
    assert all(torch.equal(v, checkpoint[k]) for k, v in load_file(workdir / "c.safetensors").items())
    assert run(capsys, *reimport)[0] == 2
    assert run(capsys, *reimport, "--overwrite")[0] == 0
    content = (workdir / "best.pth.tar").read_bytes()
    (workdir / "mine.safetensors").write_bytes(content)
    status, _, err = run(capsys, *reimport[:-1], "--out=mine.safetensors", "--overwrite")
    assert status == 2 and "mine.safetensors is not overwritten" in err
    assert (workdir / "mine.safetensors").read_bytes() == content


def test_normalisation_and_class_names_can_be_given(workdir, capsys) -> None:
    torch.manual_seed(0)
    torch.save(models.create("wrn-10-0.5", 10).state_dict(), "net.pt")
    (workdir / "names.txt").write_bytes(("\ufeff" + "\r\n".join("0123456789")).encode())
    details = ["--class-names=names.txt", "--mean=[0.1,0.2,0.3]", "--std=[0.5,0.5,0.25]", "--image-size=32"]
    assert run(capsys, "import", "net.pt", "--model=wrn-10-0.5", *details, "--out=net.safetensors")[0] == 0
    imported = training.load_pretrained("net.safetensors")
    assert imported.classes == tuple("0123456789")
    status, out, err = run(capsys, "evaluate", "net.safetensors", *CLUTTER, "--json")
    assert status == 0 and "no names" not in err
    test = data.clutter(train=20, test=40).test
    images = test.images / 255
    for i, (mean, std) in enumerate(zip((0.1, 0.2, 0.3), (0.5, 0.5, 0.25), strict=True)):
        images[:, i] = (images[:, i] - mean) / std
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(imported.model()(images), test.labels)
    assert json.loads(out)[0]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert f"loss {loss:.4f}" not in run(capsys, "evaluate", "net.safetensors", *CLUTTER, "--data.std=[1,1,1]")[1]


def test_timm_networks_keep_their_normalisation(workdir) -> None:
    torch.save(models.create("resnet18", 4).state_dict(), "r.pth")
    imported = training.import_weights("r.pth", training.ModelRecipe("resnet18"), "r.safetensors")
    assert imported.preprocessing.mean == (0.485, 0.456, 0.406) and imported.preprocessing.size == 224
    assert imported.class_count == 4


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    return data.clutter(train=64, test=20)


def test_an_imported_teacher_uses_its_own_normalisation(workdir, splits, capsys) -> None:
    """It trains the same student as the run with its weights, for any normalisation of the student's images."""
    options = [
        "--schedule.epochs=1",
        "--device=cpu",
        "--threads=1",
        "--model.name=wrn-10-0.5",
        "--schedule.batch_size=32",
    ]
    recipe = training.load_recipe(None, options)
    training.train(recipe, "teacher", splits=splits)
    recipe_data = training.Run.open("teacher").recipe.data
    preprocessing = training.Preprocessing(recipe_data.mean, recipe_data.std, 32)
    names = splits.train.classes
    training.import_weights(
        "teacher/last.safetensors", recipe.model, "t.safetensors", class_names=names, preprocessing=preprocessing
    )
    transfer = ["--transfer.beta=10", "--transfer.alpha=0.5"]
    for name, teacher in (("a", "teacher"), ("b", "t.safetensors")):
        training.train(
            training.load_recipe(None, [*options, *transfer, f"--transfer.teacher={teacher}"]), name, splits=splits
        )
    assert (workdir / "a/last.safetensors").read_bytes() == (workdir / "b/last.safetensors").read_bytes()
    transfer_recipe = training.TransferRecipe("t.safetensors", alpha=0.5)
    messages: list[str] = []
    renormalised = replace(splits.train, mean=(0.3, 0.4, 0.5), std=(0.2, 0.3, 0.4))
    cpu = torch.device("cpu")
    (teacher,) = load_teachers(transfer_recipe, renormalised, (32, 32), cpu, messages.append)
    assert "with its own mean" in messages[0]

    def normalised(mean, std):
        return (splits.test.images / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    with torch.no_grad():
        actual = teacher.model(teacher.images(normalised(renormalised.mean, renormalised.std)))
        expected = training.load_pretrained("teacher").model()(normalised(recipe_data.mean, recipe_data.std))
    assert torch.allclose(actual, expected, atol=1e-5)
    with pytest.raises(InputError, match="one set of weights"):
        load_teachers(replace(transfer_recipe, weights="best"), renormalised, (32, 32), cpu, messages.append)


def test_wrong_input_fails_with_one_line_and_writes_nothing(workdir, checkpoint, capsys) -> None:
    state = lsas().state_dict()
    torch.save({**state, "fc.bias": torch.full((10,), math.nan)}, "nan.pt")
    torch.save({**state, "bn1.weight": torch.full((16,), 1e38), "bn1.bias": torch.full((16,), 3e38)}, "huge.pt")
    torch.save({"state_dict": state, "args": SimpleNamespace(lr=1)}, "asks.pt")
    save_file(state, "bare.safetensors")
    (workdir / "empty.txt").write_text("\n")
    (workdir / "two.txt").write_text("cat\ndog\n")
    (workdir / "twice.txt").write_text("\n".join("abcdefghia"))
    (workdir / "utf-16.txt").write_bytes("\n".join("abcdefghij").encode("utf-16-le"))
    model = ["--model=cifar-resnet11", *SE]
    wide = ["--model=wrn-16-1"]
    before = sorted(workdir.rglob("*"))
    for arguments, message in (
        (["import"], "CHECKPOINT is missing"),
        (["import", "best.pth.tar"], "model"),
        (["import", *model, "--out=x.safetensors"], "CHECKPOINT is missing"),
        (["import", "none.pt", *model, "--out=x.safetensors"], "no checkpoint file none.pt"),
        (["import", "best.pth.tar", *model, "--out=x.pt"], "does not end in .safetensors"),
        (["import", "best.pth.tar", *model, "--out=no/x.safetensors"], "no folder no"),
        (["import", "best.pth.tar", *model, "--out=bare.safetensors"], "exists already"),
        (["import", "best.pth.tar", *wide, "--out=x.safetensors"], "best.pth.tar does not fit WideResNet"),
        (["import", "best.pth.tar", *model, "--num-classes=7", "--out=x.safetensors"], "has 10 classes, not 7"),
        (["import", "best.pth.tar", *model, "--class-names=two.txt", "--out=x.safetensors"], "10 classes, not 2"),
        (["import", "best.pth.tar", *model, "--class-names=empty.txt", "--out=x.safetensors"], "names no classes"),
        (["import", "best.pth.tar", *model, "--class-names=twice.txt", "--out=x.safetensors"], "'a' named twice"),
        (["import", "best.pth.tar", *model, "--class-names=utf-16.txt", "--out=x.safetensors"], "not text in UTF-8"),
        (["import", "best.pth.tar", *model, "--mean=[0,0,0]", "--out=x.safetensors"], "go together"),
        (["import", "nan.pt", *model, "--out=x.safetensors"], "fc.bias"),
        (["import", "huge.pt", *model, "--out=x.safetensors"], "huge.pt"),
        (["import", "asks.pt", *model, "--out=x.safetensors"], "contains types.SimpleNamespace"),
        (["evaluate", "bare.safetensors", *CLUTTER], "bare.safetensors"),
        (["evaluate", "best.pth.tar", *CLUTTER], "import it (`regard import`)"),
        (["export", "bare.safetensors", "--out=x.onnx"], "bare.safetensors"),
        (["export", "--out=x.onnx"], "MODEL is missing"),
        (["export", "wrn-10", "--out=x.onnx"], "unknown network 'wrn-10'"),
    ):
        status, _, err = run(capsys, *arguments)
        assert status == 2, arguments
        assert message in err and err.count("regard: ") == 1 and "Traceback" not in err, err
        assert sorted(workdir.rglob("*")) == before


def test_an_imported_file_needs_data_with_the_same_classes(workdir, capsys) -> None:
    torch.save(models.create("wrn-10-0.5", 3).state_dict(), "net.pt")
    assert run(capsys, "import", "net.pt", "--model=wrn-10-0.5", "--out=net.safetensors")[0] == 0
    error = run(capsys, "evaluate", "net.safetensors", *CLUTTER)[2]
    assert "trained for 3 classes (class 0, class 1, class 2, …), and clutter has 10" in error
    assert "the data of net.safetensors are not known" in run(capsys, "evaluate", "net.safetensors")[2]
    assert "one set of weights" in run(capsys, "bias", "net.safetensors", *CLUTTER, "--weights=best")[2]


def test_export_takes_a_run_a_file_or_a_name(workdir, splits, capsys) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    options = ["--schedule.epochs=1", "--device=cpu", "--threads=1", "--model.name=wrn-10-0.5"]
    training.train(training.load_recipe(None, options), "run", splits=splits)
    status, out, _ = run(capsys, "export", "run", "--out=run.onnx", "--weights=best")
    assert status == 0 and "images (N, 3, 32, 32) with N any number" in out and "largest difference" in out
    metadata = {entry.key: entry.value for entry in onnx.load("run.onnx").metadata_props}
    assert json.loads(metadata["classes"]) == list("0123456789")
    assert json.loads(metadata["mean"]) == pytest.approx(splits.train.mean)
    network = training.Run.open("run").recipe.model
    training.import_weights("run/last.safetensors", network, "net.safetensors")
    assert run(capsys, "export", "net.safetensors", "--out=net.onnx", "--no-check", "--batch-size=4")[0] == 0
    status, out, _ = run(capsys, "export", "wrn-10-0.5", "--attention=se", "--image-size=16", "--out=name.onnx")
    assert status == 0 and "(N, 3, 16, 16)" in out
    assert run(capsys, "export", "run", "--format=hub", "--out=hub")[0] == 0
    assert run(capsys, "export", "run", "--format=hub", "--out=hub", "--weights=best", "--overwrite")[0] == 0
    card, saved = (workdir / "hub" / "README.md").read_text(), training.load_pretrained("hub")
    row = training.Run.open("run").metrics()[-1]
    assert f"| test accuracy | {row['test_accuracy']:.6g} |" in card and "    model:" in card
    assert saved.classes == tuple("0123456789") and saved.preprocessing.mean == pytest.approx(splits.train.mean)
    assert models.fingerprint(saved.model()) == models.fingerprint(training.Run.open("run").model("best"))
    for arguments, message in (
        (["export", "run", "--format=hub", "--out=hub"], "hub exists already"),
        (["export", "run", "--format=hub", "--out=run", "--overwrite"], "run exists already"),
        (["export", "run", "--out=run.onnx"], "exists already"),
        (["export", "run", "--attention=se", "--out=x.onnx"], "--attention is for a network by name"),
        (["export", "run/last.safetensors", "--out=x.onnx"], "is part of a run"),
    ):
        status, _, err = run(capsys, *arguments)
        assert status == 2 and message in err and err.count("regard: ") == 1
    assert not (workdir / "x.onnx").exists()


def test_complexity_of_an_imported_file(workdir, capsys) -> None:
    model = models.create(
        "cifar-resnet20", 7, block="basic", attention="se", gate="sub-attention", attention_stages=(3,)
    )
    torch.save(model.state_dict(), "weights.pth")
    options = ["--model=cifar-resnet20", "--model-options={block: basic}", "--attention=se", "--gate=sub-attention"]
    arguments = ["import", "weights.pth", *options, "--attention_stages=[3]", "--out=net.safetensors"]
    assert run(capsys, *arguments)[0] == 0
    status, out, _ = run(capsys, "complexity", "net.safetensors", "--no-latency", "--json")
    plain, imported = json.loads(out)
    assert status == 0 and imported["parameters"] == sum(p.numel() for p in model.parameters())
    assert (plain["attention"], imported["attention"], imported["classes"]) == ("none", "se", 7)
