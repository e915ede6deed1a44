"""ONNX files: onnxruntime and torch give the same outputs, for every attention module, alone and in a network."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from regard import InputError, attention, export, models, optional
from regard.export import onnx as onnx_file

pytestmark = pytest.mark.slow

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# Options that a module needs for few channels, or to have a gate.
OPTIONS: dict[str, dict] = {"shuffle": {"groups": 4}, "sge": {"groups": 4}, "gc": {"fusion": "scale"}}
NAMES = attention.names()


def randomised(model: nn.Module) -> nn.Module:
    """The model with random values in every parameter and norm, as many modules start as the identity."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) / 4)
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) / 4
    return model


def check_outputs(path: Path, model: nn.Module, *batches: torch.Tensor) -> None:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert [o.name for o in session.get_outputs()] == ["logits"]
    for images in batches:
        (actual,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            expected = model.eval()(images).numpy()
        assert actual.shape == expected.shape
        assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def test_every_attention_module_is_exported_alone(tmp_path) -> None:
    layers = [attention.create(name, 32, gate=attention.SubAttention(1), **OPTIONS.get(name, {})) for name in NAMES]
    chain = randomised(nn.Sequential(*layers))
    export.to_onnx(chain, tmp_path / "layers.onnx", (6, 8), channels=32, check=False)
    check_outputs(tmp_path / "layers.onnx", chain, torch.randn(1, 32, 6, 8), torch.randn(5, 32, 6, 8))


@pytest.mark.parametrize("names", [("dia", "shuffle", "cbam"), ("coord", "bam", "gc")], ids="-".join)
def test_attention_modules_in_a_network_are_exported(names, tmp_path) -> None:
    model = models.create("wrn-10-0.5")
    for stage, name in enumerate(names, start=1):
        attention.attach(model, name, stages=[stage], **OPTIONS.get(name, {}))
    file = export.to_onnx(randomised(model), tmp_path / "net.onnx", 16)
    assert file.difference is not None and file.difference <= 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return randomised(models.create("wrn-10-0.5", 3))


def test_the_file_has_metadata_batch_size_and_opset(small, tmp_path) -> None:
    small.train()
    before = {name: value.clone() for name, value in small.state_dict().items()}
    file = export.to_onnx(
        small,
        str(tmp_path / "net.onnx"),
        16,
        batch=2,
        opset=18,
        metadata={"classes": ["cat", "dog", "é"], "source": "x"},
    )
    assert all(module.training for module in small.modules())
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    proto = onnx.load(tmp_path / "net.onnx")
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(metadata["classes"]) == ["cat", "dog", "é"] and metadata["source"] == "x" and metadata["regard"]
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in shape] == [2, 3, 16, 16]
    assert file.opset == 18 == next(entry.version for entry in proto.opset_import if entry.domain == "")
    check_outputs(tmp_path / "net.onnx", small, torch.randn(2, 3, 16, 16))


def test_file_names_outside_utf8(tmp_path, monkeypatch) -> None:
    name = os.fsdecode(b"\xe9.onnx")
    file = export.to_onnx(nn.Conv2d(3, 2, 1), tmp_path / name, 4, metadata={"source": name})
    assert file.difference is not None and file.difference < 1e-4
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / name).metadata_props}
    assert metadata["source"] == r"\udce9.onnx"
    monkeypatch.setattr(onnx_file, "_MAX_FILE", 10)
    with pytest.raises(InputError, match="UTF-8"):
        export.to_onnx(nn.Conv2d(3, 2, 1), tmp_path / name, 4, overwrite=True)


def test_large_weights_go_into_a_second_file(small, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(onnx_file, "_MAX_FILE", 1000)
    export.to_onnx(small, tmp_path / "net.onnx", 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    check_outputs(tmp_path / "net.onnx", small, torch.randn(4, 3, 16, 16))


def test_half_precision_is_compared_at_its_own_rounding(tmp_path) -> None:
    file = export.to_onnx(models.create("wrn-10-0.5").half(), tmp_path / "half.onnx", 16)
    assert file.difference is not None and 0 < file.difference < 1e-2
    (images,) = onnxruntime.InferenceSession(str(file.path), providers=["CPUExecutionProvider"]).get_inputs()
    assert images.type == "tensor(float16)"


class Forgetful(nn.Module):
    """Gives other outputs when it is exported."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) * (1.01 if torch.compiler.is_exporting() else 1)


class Branching(nn.Module):
    """Depends on the values of its input, which a graph cannot express."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images if images.sum().item() > 0 else -images


class Pair(nn.Module):
    """Returns two tensors."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images, images


class Unstable(nn.Module):
    """Returns infinity for three images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) / (3 - images.shape[0])


def test_a_failed_write_leaves_no_file(tmp_path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"cannot write .*net\.onnx .*No space left on device"):
        export.to_onnx(nn.Conv2d(3, 2, 1), tmp_path / "net.onnx", 4, check=False)
    assert not list(tmp_path.iterdir())


def test_errors_leave_existing_files_unchanged(small, tmp_path, monkeypatch) -> None:
    path = tmp_path / "net.onnx"
    earlier = onnx.helper.make_model(onnx.helper.make_graph([], "earlier", [], []))
    earlier.metadata_props.add(key="regard", value="0.1")
    onnx.save(earlier, path)
    before = path.read_bytes()
    cases = (
        (small, {}, "exists already"),
        (Forgetful(), {"overwrite": True}, r"deviates from torch's by 1\.0e-02"),
        (Unstable(), {"overwrite": True}, "deviates from torch's by nan"),
        (Branching(), {"overwrite": True}, "cannot export Branching"),
        (Pair(), {"overwrite": True}, "Pair returns a tuple; expected one tensor"),
        (small, {"overwrite": True, "batch": 0}, "batch is 0"),
        (small, {"overwrite": True, "batch": 10**20}, "batch is 1000"),
    )
    for model, options, words in cases:
        with pytest.raises(InputError, match=words) as caught:
            export.to_onnx(model, path, 16, **options)
        assert "\n" not in str(caught.value)
        assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("net.onnx", before)]
    del earlier.metadata_props[:]
    onnx.save(earlier, path)
    (tmp_path / "large.onnx.data").write_text("a person's")
    monkeypatch.setattr(onnx_file, "_MAX_FILE", 1000)
    for name in ("net.onnx", "large.onnx"):
        with pytest.raises(InputError, match=rf"{name}.* not overwritten: regard export did not write it"):
            export.to_onnx(small, tmp_path / name, 16, overwrite=True)
    with pytest.raises(InputError, match="no folder"):
        export.to_onnx(small, tmp_path / "none" / "net.onnx", 16)
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'needs onnx, onnxscript, onnxruntime: pip install "regard\[export\]"'):
        export.to_onnx(small, tmp_path / "other.onnx", 16)
