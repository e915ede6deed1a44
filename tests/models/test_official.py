"""Checkpoints as the published training scripts save them, and wrong ones."""

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


def test_wrappings(goldens, tmp_path) -> None:
    state = {name: value.float() for name, value in goldens.state("lsas_cifar_d11_order1").items()}
    parallel = {f"module.{name}": value for name, value in state.items()}
    torch.save(
        {"epoch": 3, "state_dict": parallel, "best_acc": 1.0, "optimizer": {"param_groups": []}}, tmp_path / "a.pth.tar"
    )
    save_file(state, tmp_path / "a.safetensors")
    expected = models.load_official(lsas(), state).state_dict()
    for checkpoint in (parallel, tmp_path / "a.pth.tar", str(tmp_path / "a.safetensors"), {"model": state}):
        found = models.load_official(lsas(), checkpoint).state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_student_saved_with_its_teacher(goldens) -> None:
    both = goldens.state("wrn_16_1")
    params = {f"student.{k}": v for k, v in both.items() if "running" not in k}
    stats = {f"student.{k}": v for k, v in both.items() if "running" in k}
    params |= {f"teacher.{k}": v for k, v in goldens.state("wrn_16_2").items()}
    found = models.load_official(models.create("wrn-16-1").double(), {"params": params, "stats": stats, "epoch": 9})
    assert torch.equal(found.group1.block0.convdim.weight, both["group1.block0.convdim"])


def optimizer_state(model: torch.nn.Module) -> dict:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_as_the_training_scripts_save(zipped, tmp_path) -> None:
    trained = lsas()
    state = {f"module.{name}": value for name, value in trained.state_dict().items()}
    path = tmp_path / "model_best.pth.tar"
    for best in (np.float64(93.5), np.float32(93.5), torch.tensor(93.5), np.int64(93)):
        whole = {"epoch": 164, "arch": "lsas", "state_dict": state, "acc": best, "best_prec1": best}
        torch.save({**whole, "optimizer": optimizer_state(trained)}, path, _use_new_zipfile_serialization=zipped)
        found = models.load_official(lsas(), path).state_dict()
        assert all(torch.equal(found[name.removeprefix("module.")], value) for name, value in state.items())


class OldVariable:
    """Pickles as torch before 0.4 pickled a Variable."""

    def __init__(self, data: torch.Tensor) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int):
        return torch.autograd.Variable, (self.data,), (True, False, OrderedDict())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_variables_of_old_torch(zipped, tmp_path) -> None:
    trained = models.create("wrn-10-1").state_dict()
    named = {name.replace("conv0.weight", "conv0").replace("conv1.weight", "conv1"): v for name, v in trained.items()}
    named = {name.replace("convdim.weight", "convdim"): value for name, value in named.items()}
    params = OrderedDict((name, OldVariable(v)) for name, v in named.items() if "running" not in name)
    stats = {name: value for name, value in named.items() if "running" in name}
    torch.save(
        {"params": params, "stats": stats, "epoch": 199}, tmp_path / "model.pt7", _use_new_zipfile_serialization=zipped
    )
    found = models.load_official(models.create("wrn-10-1"), tmp_path / "model.pt7").state_dict()
    assert all(torch.equal(found[name], value) for name, value in trained.items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_saved_on_a_gpu(zipped, tmp_path, monkeypatch) -> None:
    state = lsas().state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")
        torch.save({"state_dict": state}, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=zipped)
    assert b"cuda:7" in (tmp_path / "a.pth.tar").read_bytes()
    found = models.load_official(lsas(), tmp_path / "a.pth.tar").state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_data_parallel_around_a_part() -> None:
    state = lsas().state_dict()
    found = models.load_official(lsas(), {name.replace("layer2.", "layer2.module."): v for name, v in state.items()})
    assert torch.equal(found.layer2[0].conv1.weight, state["layer2.0.conv1.weight"])


def test_classes_are_counted() -> None:
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
def test_what_asks_for_more_is_refused_by_name(form, value, named, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = {"state_dict": {"fc.weight": torch.zeros(2, 2)}, "args": value}
    if form == "plain":
        (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": {}, "args": value}))
    else:
        torch.save(whole, tmp_path / "evil.pt", _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(InputError, match="refused") as caught:
        models.read_checkpoint(tmp_path / "evil.pt")
    assert ("pickle" if form == "plain" else named) in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil-was-here").exists()


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


def test_what_does_not_fit_changes_nothing(goldens, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = goldens.state("lsas_cifar_d11_order1")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    torch.save({"state_dict": Evil()}, tmp_path / "evil2.pt")
    torch.save(state, tmp_path / "cut.pt")
    save_file(state, tmp_path / "cut.safetensors")
    for name in ("cut.pt", "cut.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:5000])
    (tmp_path / "empty.pt").touch()
    without = {name: value for name, value in state.items() if name != "layer3.0.fc1.bias"}
    model = lsas()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for checkpoint, words in (
        (tmp_path / "none.pt", "no checkpoint file"),
        (tmp_path / "evil.pt", "refused"),
        (tmp_path / "evil2.pt", "refused"),
        (tmp_path / "cut.pt", "cut short"),
        (tmp_path / "cut.safetensors", "cut short"),
        (tmp_path / "empty.pt", "empty file"),
        (without, "1 missing (layer3.0.attention.fc1.bias)"),
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
