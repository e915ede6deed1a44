"""Untrusted recipes, run folders, shards and addresses: no code in them is executed."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from regard.cli import main
from regard.training import load_recipe
from regard.training.recipe import plain

# Each creates the file "ran" in the working directory if a shell or webdataset executes it as a command.
PIPE, QUOTED = "pipe:touch ran", "https://127.0.0.1:9/a';touch ran;'"


class Payload:
    """Creates the file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return os.system, ("touch ran",)


def wds_recipe(folder: str | None, **options: Any) -> dict[str, Any]:
    return {"data": {"name": "wds", "folder": folder, "options": {"classes": 2, **options}}}


def network_recipe(name: str = "resnet10t", **options: Any) -> dict[str, Any]:
    return {"model": {"name": name, "options": options}, "data": {"options": {"train": 20, "test": 20}}}


FIELDS: dict[str, dict[str, Any]] = {
    "folder": wds_recipe(PIPE),
    "folder in capitals": wds_recipe("PIPE:touch ran"),
    "folder after a space": wds_recipe(" pipe:touch ran;"),
    "folder within quotes": wds_recipe(QUOTED),
    "folder of another program": wds_recipe("gs://a'$(touch ran)'"),
    "info": wds_recipe("shards"),
    "shards to train on": wds_recipe(None, train=f"{PIPE} .tar|1", test="a.tar|1"),
    "shards to test on": wds_recipe("shards", train="a.tar|1", test=f"{PIPE} .tar|1"),
    "shards in braces": wds_recipe(None, train="{pipe:touch ran;,a}.tar|1", test="a.tar|1"),
    "shards in a list": wds_recipe(None, train=f"a.tar::{PIPE} .tar|1", test="a.tar|1"),
    "shards within quotes": wds_recipe(None, train=f"{QUOTED}.tar|1", test="a.tar|1"),
    "classes": wds_recipe("shards", train="a.tar|1", test="a.tar|1", classes=PIPE),
    "class folders": {"data": {"name": "files", "folder": PIPE}},
    "data set of the hub": {"data": {"name": "hfds", "options": {"dataset": "./script"}}},
    "CIFAR": {"data": {"name": "cifar10", "folder": "."}},
    "checkpoint": network_recipe(checkpoint_path="payload.pth"),
    "published weights": network_recipe(pretrained=True, pretrained_cfg={"file": "payload.pth"}),
    "published weights overlaid": network_recipe(pretrained_cfg_overlay={"file": "payload.pth"}),
    "folder of a network": network_recipe("local-dir:network"),
    "teacher": {**network_recipe("wrn-10-1"), "transfer": {"beta": 1, "teacher": "resnet18=payload.pth"}},
    "teacher by an address": {**network_recipe("wrn-10-1"), "transfer": {"beta": 1, "teacher": PIPE}},
    "YAML": network_recipe("!!python/object/apply:os.system ['touch ran']"),
}


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the fields refer to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    split = {"name": "train", "filenames": [PIPE], "shard_lengths": [1], "num_samples": 1}
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "_info.json").write_text(json.dumps({"splits": {"train": split, "test": split}}))
    with tarfile.open(tmp_path / "shards" / "a.tar", "w"):
        pass
    (tmp_path / " pipe:touch ran;").mkdir()
    torch.save({"state_dict": Payload()}, tmp_path / "payload.pth")
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "config.json").write_text('{"architecture": "resnet10t", "num_classes": 2}')
    torch.save(Payload(), tmp_path / "network" / "pytorch_model.bin")
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("open('ran', 'w')\n")
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in ("batches.meta", "data_batch_1", "test_batch"):
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Payload()))
    (tmp_path / "a.jpg").write_bytes(b"")
    return tmp_path


def write_run(folder: Path, sections: dict[str, Any]) -> None:
    """Writes the folder of a finished run with these sections in its recipe and hostile weights."""
    folder.mkdir(parents=True)
    recipe = plain(load_recipe())
    for name, fields in sections.items():
        recipe[name] |= fields
    recipe["schedule"]["epochs"] = 1
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (folder / "environment.json").write_text(json.dumps({"classes": ["a", "b"]}))
    (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "test_accuracy": 0.5}) + "\n")
    torch.save(Payload(), folder / "last.safetensors")


COMMANDS_ON_RUNS = ("evaluate", "bias", "gates", "groups", "explain")


@pytest.mark.slow
@pytest.mark.parametrize("field", FIELDS)
def test_no_recipe_field_is_executed(field: str, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workdir / "recipe.yaml").write_text(yaml.safe_dump(FIELDS[field]))
    write_run(workdir / "untrusted", FIELDS[field])
    # These commands open a run and its data in the same way; the other fields are tested with one of them.
    commands = COMMANDS_ON_RUNS if field in ("folder", "info", "checkpoint") else COMMANDS_ON_RUNS[:1]
    images = {"explain": ["a.jpg"]}
    for arguments in (
        ["train", "recipe.yaml", "--run", "own", "--device", "cpu"],
        *([command, "untrusted", *images.get(command, []), "--device", "cpu"] for command in commands),
    ):
        assert main(arguments) == 2, arguments
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("regard: ")
    assert not (workdir / "ran").exists()


@pytest.mark.slow
def test_nothing_in_a_store_of_runs_is_executed(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for field, fields in FIELDS.items():
        write_run(workdir / "runs" / field, fields)
    for arguments in (
        ["runs", "runs"],
        ["table", "lsas-cifar", "--runs", "runs"],
        ["report", "runs", "--examples", "2"],
        ["reproduce", "lsas-cifar", "--runs", "runs", "--dry-run", "--seeds", "1", "--shorten", "0.01"],
    ):
        assert main(arguments) == 0, arguments
        assert "Traceback" not in capsys.readouterr().err
    assert not (workdir / "ran").exists()


@pytest.mark.parametrize("address", [PIPE, QUOTED, "reference://a", "simplecache::file:///tmp", "file://runs::pipe:a"])
def test_no_address_on_the_command_line_is_executed(
    address: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(workdir / "runs" / "untrusted", network_recipe("wrn-10-1"))
    for arguments in (
        ["runs", address],
        ["table", "lsas-cifar", "--runs", address],
        ["report", address],
        ["evaluate", "runs/untrusted", "--data", address],
        ["bias", "runs/untrusted", "--data", address],
        ["bias", "runs/untrusted", "--data", f"coco:{address}"],
        ["gates", "runs/untrusted", "--data", f"folder:{address}"],
        ["explain", "runs/untrusted", address],
        ["import", address, "--model", "resnet18", "--out", "a.safetensors"],
        ["import", "payload.pth", "--model", "resnet18", "--out", "a.safetensors"],
    ):
        assert main(arguments) == 2, arguments
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("regard: ")
    assert not (workdir / "ran").exists()
