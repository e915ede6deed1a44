"""Checkpoints as the published training scripts save them, and ones that are wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

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
        (tmp_path / "empty.pt", "cut short"),
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
