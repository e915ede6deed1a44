"""Checkpoints in the formats of the published training scripts, and wrong ones."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from regard import InputError, attention, models


def lsas() -> torch.nn.Module:
    return models.create("cifar-resnet11", attention="se", gate=attention.SubAttention(1), attention_stages=(3,))


def test_wrapped_state_dicts_load(goldens, tmp_path) -> None:
    state = {name: value.float() for name, value in goldens.state("lsas_cifar_d11_order1").items()}
    parallel = {f"module.{name}": value for name, value in state.items()}
    torch.save(
        {"epoch": 3, "state_dict": parallel, "best_acc": 1.0, "optimizer": {"param_groups": []}}, tmp_path / "a.pth.tar"
    )
    save_file(state, tmp_path / "a.safetensors")
    expected = models.load_official(lsas(), state).state_dict()
    for checkpoint in (parallel, tmp_path / "a.pth.tar", str(tmp_path / "a.safetensors"), {"model": state}):
        loaded = models.load_official(lsas(), checkpoint).state_dict()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_the_student_is_loaded_from_a_checkpoint_with_its_teacher(goldens) -> None:
    states = goldens.state("wrn_16_1")
    params = {f"student.{k}": v for k, v in states.items() if "running" not in k}
    stats = {f"student.{k}": v for k, v in states.items() if "running" in k}
    params |= {f"teacher.{k}": v for k, v in goldens.state("wrn_16_2").items()}
    loaded = models.load_official(models.create("wrn-16-1").double(), {"params": params, "stats": stats, "epoch": 9})
    assert torch.equal(loaded.group1.block0.convdim.weight, states["group1.block0.convdim"])


def optimizer_state(model: torch.nn.Module) -> dict:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_checkpoints_of_training_scripts_load(zipped, tmp_path) -> None:
    trained = lsas()
    state = {f"module.{name}": value for name, value in trained.state_dict().items()}
    path = tmp_path / "model_best.pth.tar"
    for best in (np.float64(93.5), np.float32(93.5), torch.tensor(93.5), np.int64(93)):
        checkpoint = {"epoch": 164, "arch": "lsas", "state_dict": state, "acc": best, "best_prec1": best}
        torch.save({**checkpoint, "optimizer": optimizer_state(trained)}, path, _use_new_zipfile_serialization=zipped)
        loaded = models.load_official(lsas(), path).state_dict()
        assert all(torch.equal(loaded[name.removeprefix("module.")], value) for name, value in state.items())


class OldVariable:
    """Is pickled like a Variable of torch before 0.4."""

    def __init__(self, data: torch.Tensor) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int):
        return torch.autograd.Variable, (self.data,), (True, False, OrderedDict())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_variables_of_torch_before_0_4_load(zipped, tmp_path) -> None:
    trained = models.create("wrn-10-1").state_dict()
    renamed = {name.replace("conv0.weight", "conv0").replace("conv1.weight", "conv1"): v for name, v in trained.items()}
    renamed = {name.replace("convdim.weight", "convdim"): value for name, value in renamed.items()}
    params = OrderedDict((name, OldVariable(v)) for name, v in renamed.items() if "running" not in name)
    stats = {name: value for name, value in renamed.items() if "running" in name}
    torch.save(
        {"params": params, "stats": stats, "epoch": 199}, tmp_path / "model.pt7", _use_new_zipfile_serialization=zipped
    )
    loaded = models.load_official(models.create("wrn-10-1"), tmp_path / "model.pt7").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in trained.items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_checkpoints_saved_on_a_gpu_load(zipped, tmp_path, monkeypatch) -> None:
    state = lsas().state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")
        torch.save({"state_dict": state}, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=zipped)
    assert b"cuda:7" in (tmp_path / "a.pth.tar").read_bytes()
    loaded = models.load_official(lsas(), tmp_path / "a.pth.tar").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_data_parallel_around_a_submodule_loads() -> None:
    state = lsas().state_dict()
    loaded = models.load_official(lsas(), {name.replace("layer2.", "layer2.module."): v for name, v in state.items()})
    assert torch.equal(loaded.layer2[0].conv1.weight, state["layer2.0.conv1.weight"])


def test_classes_are_counted_in_the_checkpoint() -> None:
    assert models.count_classes({"state_dict": {f"module.{k}": v for k, v in lsas().state_dict().items()}}) == 10
    assert models.count_classes({"stem.weight": torch.zeros(3, 3)}) is None


class Command:
    def __reduce__(self):
        return (os.system, ("touch evil-was-here",))


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Command(), "system"),
        (SimpleNamespace(lr=0.1), "types.SimpleNamespace"),
        (Path("x"), "pathlib"),
        (eval, "eval"),
    ],
)
def test_other_pickled_objects_are_refused_by_name(form, value, named, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = {"state_dict": {"fc.weight": torch.zeros(2, 2)}, "args": value}
    if form == "plain":
        (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": {}, "args": value}))
    else:
        torch.save(checkpoint, tmp_path / "evil.pt", _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(InputError, match="refused") as caught:
        models.read_checkpoint(tmp_path / "evil.pt")
    assert ("pickle" if form == "plain" else named) in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil-was-here").exists()


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


def test_a_checkpoint_that_does_not_fit_changes_nothing(goldens, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = goldens.state("lsas_cifar_d11_order1")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    torch.save({"state_dict": Evil()}, tmp_path / "evil2.pt")
    torch.save(state, tmp_path / "cut.pt")
    save_file(state, tmp_path / "cut.safetensors")
    for name in ("cut.pt", "cut.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:5000])
    (tmp_path / "empty.pt").touch()
    incomplete = {name: value for name, value in state.items() if name != "layer3.0.fc1.bias"}
    model = lsas()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for checkpoint, words in (
        (tmp_path / "none.pt", "no checkpoint file"),
        (tmp_path / "evil.pt", "refused"),
        (tmp_path / "evil2.pt", "refused"),
        (tmp_path / "cut.pt", "cut short"),
        (tmp_path / "cut.safetensors", "cut short"),
        (tmp_path / "empty.pt", "empty file"),
        (incomplete, "1 missing (layer3.0.attention.fc1.bias)"),
        ({**state, "extra": torch.zeros(1)}, "1 left over (extra)"),
        ({**state, "fc.weight": torch.zeros(100, 256)}, "fc.weight is (100, 256) instead of (10, 256)"),
        ({"state_dict": {}}, "no state dict"),
        ({"name": "resnet"}, "no tensor"),
        ([1, 2], "no state dict"),
    ):
        with pytest.raises(InputError) as caught:
            if isinstance(checkpoint, list):
                torch.save(checkpoint, tmp_path / "list.pt")
                checkpoint = tmp_path / "list.pt"
            models.load_official(model, checkpoint)
        assert words in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not (tmp_path / "evil-was-here").exists()
