"""The examples run, and results equal those of other libraries where both compute the same."""

from __future__ import annotations

import csv
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from support import sources
from torch import nn
from torch.nn import functional as F

from regard import attention, bias, cli, data, models, transfer

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch, tmp_path):
    """A function that imports an example by name."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    torch.manual_seed(0)

    def load(name: str) -> ModuleType:
        return import_module(name)

    yield load
    for path in EXAMPLES.glob("*.py"):
        if path.stem not in before:
            sys.modules.pop(path.stem, None)


@pytest.fixture
def networks() -> tuple[nn.Module, nn.Module]:
    return models.create("wrn-10-0.5", 10), models.create("wrn-10-1", 10)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def has_changed(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_timm_attention(example) -> None:
    timm_attention = example("timm_attention")
    built = timm_attention.built_by_timm("test_resnet", num_classes=3)
    exchanged = timm_attention.in_place_of_se("test_efficientnet", num_classes=3)
    for model, kind in ((built, attention.SqueezeExcitation), (exchanged, attention.EfficientChannelAttention)):
        assert any(isinstance(module, kind) for module in model.modules())
        assert model(torch.randn(2, 3, 64, 64)).shape == (2, 3)
    assert any(name.endswith("gate.w") for name in built.state_dict())

    options = {"pretrained": False, "num_classes": 3}
    trained = timm_attention.trained_already("test_resnet", **options).eval()
    assert {type(module) for module in attention.attached(trained).values()} == {attention.IdentityStart}
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(trained(images), attention.detach(trained)(images))


def test_plain_loop(example, networks) -> None:
    plain_loop = example("plain_loop")
    student, teacher = networks
    before = weights(teacher)
    history = plain_loop.train(student, teacher, plain_loop.training_set(100), epochs=3)
    assert len(history) == 3 * 2
    assert sum(history[-2:]) < sum(history[:2])
    assert not has_changed(teacher, before)


@pytest.mark.slow
def test_lightning_transfer(example, networks) -> None:
    lightning_transfer = example("lightning_transfer")
    module = lightning_transfer.Transfer(*networks, beta=1e3, guidance=1.0)
    student, teacher = map(weights, networks)
    trainer = lightning_transfer.lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    loader = torch.utils.data.DataLoader(example("plain_loop").training_set(100), batch_size=50)
    trainer.fit(module, loader)
    assert {"train_task", "train_attention", "train_guidance"} <= set(trainer.logged_metrics)
    assert has_changed(networks[0], student) and not has_changed(networks[1], teacher)
    assert all(name.startswith("objective.student.") for name in module.state_dict())


def test_huggingface_trainer(example, networks, tmp_path) -> None:
    dataset = example("plain_loop").training_set(100)
    student, teacher = map(weights, networks)
    options = {"max_steps": 2, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "logging_steps": 1}
    trainer = example("huggingface_trainer").train(*networks, dataset, str(tmp_path), **options)
    assert [round(entry["loss"], 3) > 0 for entry in trainer.state.log_history if "loss" in entry] == [True, True]
    assert has_changed(networks[0], student) and not has_changed(networks[1], teacher)


@pytest.mark.slow
def test_onnx_inference(example, tmp_path) -> None:
    onnx_inference = example("onnx_inference")
    onnx_inference.write(tmp_path / "network.onnx")
    images = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    logits = onnx_inference.logits(tmp_path / "network.onnx", images)
    torch.manual_seed(0)
    network = models.create("wrn-10-1", 10, attention="se", gate="sub-attention").eval()
    with torch.no_grad():
        np.testing.assert_allclose(logits, network(torch.from_numpy(images)), rtol=1e-3, atol=1e-4)


def test_fiftyone_rows(example, tmp_path) -> None:
    """Read like in `fiftyone.utils.csv.CSVDatasetImporter`: media by `filepath`, a parser per field, no empty cells."""
    fiftyone_rows = example("fiftyone_rows")
    sources.masks(tmp_path / "pictures")
    dataset = data.open_regions("masks:pictures")
    model = models.create("wrn-10-1", num_classes=len(dataset.classes))
    results = bias.evaluate(model, dataset, transform=data.Transform((32, 32)), mean=(0.5,) * 3, std=(0.5,) * 3)
    path = results.save(tmp_path / "bias" / "network.json")

    fiftyone_rows.write(
        fiftyone_rows.rows(bias.Results.load(path), tmp_path / "pictures" / "images"), Path("labels.csv")
    )
    with open("labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    samples = [
        {name: parse(row[name]) for name, parse in fiftyone_rows.FIELDS.items() if row[name]}
        | {"path": row["filepath"]}
        for row in rows
    ]
    assert all(Path(sample["path"]).is_absolute() and Path(sample["path"]).is_file() for sample in samples)
    assert sorted({sample["label"] for sample in samples}) == ["a", "b"]
    assert sum(sample["bias"] == "range" for sample in samples) == results.rows["range_bias"].sum()
    spills = [sample["spill"] for sample in samples if "spill" in sample]
    assert np.mean(spills) == pytest.approx(results.overall.means["spill"].value, rel=1e-6)


@pytest.mark.parametrize("mode", ["code", "paper"])
def test_attention_loss_equals_torchdistill(mode) -> None:
    """The formulas of `torchdistill.losses.mid_level.ATLoss`: a weighted sum over pairs, averaged over the batch."""
    torch.manual_seed(0)
    shapes = {"layer3": (4, 8, 7, 7), "layer4": (4, 16, 4, 4)}
    students = {name: torch.randn(n, c, h, w, dtype=torch.float64) for name, (n, c, h, w) in shapes.items()}
    teachers = {name: torch.randn(n, 2 * c, h, w, dtype=torch.float64) for name, (n, c, h, w) in shapes.items()}
    expected, actual = 0.0, 0.0
    for name, student in students.items():
        a, b = (F.normalize(x.square().mean(1).flatten(1)) for x in (student, teachers[name]))
        expected += (a - b).square().mean() if mode == "code" else (a - b).norm(dim=1).sum() / len(a)
        actual += transfer.attention_loss(student, teachers[name], form=mode)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)


def test_distillation_loss_equals_torchdistill() -> None:
    """In `torchdistill.losses.mid_level.KDLoss`, alpha is the weight of the labels."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 10, dtype=torch.float64)
    labels, temperature, alpha = torch.tensor([1, 2, 3, 9]), 4.0, 0.3
    soft = F.kl_div((student / temperature).log_softmax(1), (teacher / temperature).softmax(1), reduction="batchmean")
    expected = alpha * F.cross_entropy(student, labels) + (1 - alpha) * temperature**2 * soft
    actual = transfer.distillation_loss(student, teacher, labels, temperature, 1 - alpha)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_timm_results_of_complexity_and_bias(example, tmp_path, capsys) -> None:
    timm_results = example("timm_results")
    assert cli.main(["complexity", "wrn-10-1", "--attention", "se", "--no-latency", "--json"]) == 0
    Path("complexity.json").write_text(capsys.readouterr().out)
    _, test = data.load("clutter", train=10, test=20)
    bias.evaluate(models.create("wrn-10-1"), test, name="wrn-10-1").save("bias.json")
    for kind in ("complexity", "bias"):
        timm_results.main([f"{kind}.json", "--out", f"{kind}.csv"])

    plain, with_se = read_csv(Path("complexity.csv"))
    assert list(plain) == ["model", "attention", "img_size", "gmacs", "param_count"]
    assert (plain["model"], plain["attention"], with_se["attention"]) == ("wrn-10-1", "none", "se")
    (row,) = read_csv(Path("bias.csv"))
    assert list(row)[:3] == ["model", "top1", "top1_err"] and "position_bias_low" in row
    assert float(row["top1"]) + float(row["top1_err"]) == pytest.approx(100)
    assert float(row["position_bias_low"]) <= float(row["position_bias"]) <= float(row["position_bias_high"])
    parameters = sum(parameter.numel() for parameter in models.create("wrn-10-1").parameters())
    for record in (row, plain):
        assert float(record["param_count"]) == pytest.approx(parameters / 1e6, abs=5e-4)
    with pytest.raises(SystemExit, match="several kinds"):
        timm_results.main(["complexity.json", "bias.json", "--out", "both.csv"])


def test_timm_results_of_the_documented_tables(example) -> None:
    timm_results = example("timm_results")
    results = EXAMPLES.parent / "docs" / "results"
    tables = [results / f"{name}.md" for name in ("attention-transfer-cifar10", "builtin", "lsas-resnet29")]
    timm_results.main([*map(str, tables), "--out", "tables.csv"])
    assert Path("tables.csv").read_text() == (results / "results-tables.csv").read_text()
    rows = read_csv(Path("tables.csv"))
    assert [
        sum(row["table"] == heading for row in rows) for heading in dict.fromkeys(row["table"] for row in rows)
    ] == [
        *(7, 7, 2),
    ]
    for row in rows:
        assert float(row["top1_low"]) < float(row["top1"]) < float(row["top1_high"])
        assert float(row["top1"]) + float(row["top1_err"]) == pytest.approx(100)
