"""The main commands, run through `regard.cli.main`."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from regard.cli import main

TRAIN = [
    "train",
    "--model.name=wrn-10-0.5",
    "--schedule.epochs=1",
    "--data.options={train: 128, test: 60}",
    "--device=cpu",
    "--threads=1",
]


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    return status, *capsys.readouterr()


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_train_then_evaluate_and_bias(workdir, capsys) -> None:
    status, out, err = run(capsys, *TRAIN)
    assert status == 0 and "epoch 1/1" in err and "runs/wrn-10-0.5-seed0: test accuracy" in out
    assert run(capsys, *TRAIN, "--seed=1")[0] == 0
    status, out, _ = run(capsys, "evaluate", "runs/wrn-10-0.5-seed0", "--data.options={train: 1, test: 200}")
    assert status == 0 and "200" in out and "accuracy" in out
    networks = ["runs/wrn-10-0.5-seed0", "runs/wrn-10-0.5-seed1"]
    status, out, _ = run(capsys, "bias", *networks, "--threshold=0.6", "--json")
    assert status == 0 and {record["model"] for record in json.loads(out)["results"]} == set(networks)
    report = json.loads((workdir / "runs" / "wrn-10-0.5-seed1" / "bias.json").read_text())
    assert "wrn-10-0.5-seed1" in json.dumps(report)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean 'train'?"),
        (["train", "none.yaml"], "no recipe file none.yaml"),
        (["train", "--optimizer.rl=1"], "did you mean --optimizer.lr?"),
        (["train", "--data.name=imagenette"], "unknown data set 'imagenette'"),
        (["train", "--data.name=folder", "--data.folder=none"], "no folder 'none'"),
        (["train", "--data.name=folder", "--data.folder=pictures"], "'pictures/train/cat/note.jpg'"),
        (["train", "--data.name=folder", "--data.folder=hollow"], "folder 'hollow/train/dog'"),
        (["train", "--model.name=wrn-16"], "unknown network 'wrn-16'"),
        (["train", "--run=taken"], "taken exists already"),
        (["train", "--run=taken", "--resume"], "taken"),
        (["evaluate"], "MODEL is missing"),
        (["evaluate", "taken"], "no recipe.yaml"),
        (["bias", "none"], "no run folder none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_fails_with_one_line_and_changes_nothing(workdir, capsys, arguments, message) -> None:
    for name in (
        "pictures/train/cat/a.png",
        "pictures/test/cat/a.png",
        "hollow/train/cat/a.png",
        "hollow/test/cat/a.png",
    ):
        path = workdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(path)
    (workdir / "pictures/train/cat/note.jpg").write_text("not a picture")
    for split in ("train", "test"):
        (workdir / "hollow" / split / "dog").mkdir()
    (workdir / "taken").mkdir()
    (workdir / "taken" / "thesis.txt").write_text("years of work")
    before = sorted(workdir.rglob("*"))
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert message in err, err
    assert err.count("regard: ") == 1 and "Traceback" not in err
    assert sorted(workdir.rglob("*")) == before


def test_skipped_unreadable_images_are_counted(workdir, capsys) -> None:
    for split in ("train", "test"):
        for kind, colour in (("cat", "red"), ("dog", "blue")):
            folder = workdir / "pictures" / split / kind
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32), colour).save(folder / "a.png")
    (workdir / "pictures/train/cat/note.jpg").write_text("not a picture")
    options = ["--data.name=folder", "--data.folder=pictures", "--data.unreadable=skip", "--model.name=wrn-10-0.5"]
    status, _, err = run(capsys, "train", *options, "--schedule.epochs=1", "--run=run", "--threads=1")
    assert status == 0
    assert "1 unreadable train images skipped: pictures/train/cat/note.jpg" in err


def test_help_and_version(capsys) -> None:
    for command in ("demo", "train", "evaluate", "bias"):
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert f"regard {command}" in text
    main([])
    assert "commands:" in capsys.readouterr().out
    main(["--version"])
    assert capsys.readouterr().out.startswith("regard ")
