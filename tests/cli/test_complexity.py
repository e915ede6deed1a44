"""`regard complexity` from the command line."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from regard import models
from regard.cli import main


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["complexity", *arguments])
    return status, *capsys.readouterr()


def test_the_table_has_counts_overheads_and_notes(capsys) -> None:
    status, out, err = run(capsys, "resnet50", "wrn-10-1", "--attention=se,shuffle", "--no-latency")
    assert (status, err) == (0, "")
    lines = {tuple(line.split()[:2]): line.split() for line in out.splitlines() if line.strip()}
    assert lines["resnet50", "none"] == ["resnet50", "none", "–", "224", "25.557", "–", "4.089", "–", "4.122", "–"]
    assert lines["resnet50", "se"][3:] == ["224", "28.088", "+9.90%", "4.092", "+0.06%", "4.130", "+0.19%"]
    assert lines["wrn-10-1", "shuffle"][3:] == ["32", *6 * "–"]
    assert "resnet50, shuffle: SA-Net, arXiv 2102.00240 prints 25.557 M parameters" in out
    assert "wrn-10-1, shuffle: shuffle attention with 64 groups needs" in out
    assert "inference" not in out


def test_attention_options_reach_the_module(capsys) -> None:
    options = "--attention_options={shuffle: {groups: 4}}"
    status, out, _ = run(capsys, "wrn-10-1", "--attention=shuffle", "--no-latency", "--json", options)
    row = json.loads(out)[1]
    expected = models.create("wrn-10-1", attention="shuffle", attention_options={"groups": 4})
    assert status == 0 and row["parameters"] == sum(p.numel() for p in expected.parameters())
    assert row["attention_options"] == {"groups": 4}
    status, _, err = run(capsys, "wrn-10-1", "--attention=se", "--no-latency", options)
    assert status == 2 and "options of 'shuffle', which is not among the modules: se" in err


def test_model_options_reach_every_network(capsys) -> None:
    options = ["--model-options={block: basic}", "--no-latency", "--json", "--num-classes=100"]
    status, out, _ = run(capsys, "cifar-resnet8x4", "cifar-resnet20", *options)
    assert status == 0 and [row["parameters"] for row in json.loads(out)] == [1_233_540, 278_324]


def test_latency_and_memory_are_in_csv_and_table(capsys) -> None:
    options = ["--attention=se", "--image-size=16", "--num-classes=5", "--batch-size=2", "--repeats=2", "--device=cpu"]
    status, out, err = run(capsys, "wrn-10-0.5", *options, "--format=csv")
    assert (status, err) == (0, "")
    plain, with_se = csv.DictReader(io.StringIO(out))
    assert (plain["attention"], with_se["attention"], with_se["image_size"]) == ("none", "se", "16")
    cost = models.complexity(models.create("wrn-10-0.5", 5, attention="se"), 16)
    assert int(with_se["parameters"]) == cost.parameters and int(with_se["multiply_adds"]) == cost.multiply_adds
    assert plain["parameters_overhead"] == ""
    ratio = float(with_se["training_step_s"]) / float(plain["training_step_s"])
    assert float(with_se["training_step_s_overhead"]) == pytest.approx(100 * (ratio - 1))
    assert float(plain["inference_s_low"]) <= float(plain["inference_s"]) <= float(plain["inference_s_high"])
    assert int(plain["training_step_bytes"]) > int(plain["inference_bytes"]) > 0
    status, out, _ = run(capsys, "wrn-10-0.5", *options)
    assert status == 0 and "inference" in out and " to " in out and "batch size: 2" in out and "device: cpu" in out


def test_json_counts_operations_by_kind(capsys, tmp_path) -> None:
    path = tmp_path / "costs.json"
    options = ["--attention=all", "--attention-stages=3", "--gate=sub-attention-1", "--no-latency"]
    status, out, _ = run(capsys, *options, "cifar-resnet11", f"--out={path}")
    assert (status, out) == (0, f"{path}\n")
    rows = {row["attention"]: row for row in json.loads(path.read_text())}
    assert (rows["se"]["gate"], rows["se"]["stages"]) == ("SubAttention(order=1)", "3")
    plain, with_se = rows["none"]["operations"], rows["se"]["operations"]
    assert with_se["spatial pooling"] - plain["spatial pooling"] == 256 * 8 * 8
    assert with_se["matrix product"] - plain["matrix product"] == 2 * 256 * 16
    assert with_se["other activation"] == 2 * 256  # both factors of the gate
    assert with_se["convolution"] == plain["convolution"] == rows["se"]["multiply_adds"] - with_se["matrix product"]
    assert {"se", "cbam", "eca", "sge", "shuffle", "simam"} < set(rows)
    path = tmp_path / "costs.csv"
    assert run(capsys, *options, "cifar-resnet11", f"--out={path}")[0] == 0
    assert [row["attention"] for row in csv.DictReader(path.open())] == list(rows)


def test_uncounted_operators_are_named_in_every_format(capsys, monkeypatch) -> None:
    plain, with_se = models.count_costs(["wrn-10-0.5"], ["se"], image_size=8)
    plain.complexity = replace(plain.complexity, uncounted={"cumsum": 2})
    monkeypatch.setattr(models, "count_costs", lambda *_, **__: [plain, with_se])
    status, out, _ = run(capsys, "wrn-10-0.5", "--no-latency")
    lines = [line for line in out.splitlines() if "cumsum" in line]
    assert status == 0 and len(lines) == 1 and lines[0].startswith("wrn-10-0.5, none: ")
    rows = json.loads(run(capsys, "wrn-10-0.5", "--no-latency", "--json")[1])
    assert [row["uncounted"] for row in rows] == ["cumsum", ""]
    rows = list(csv.DictReader(io.StringIO(run(capsys, "wrn-10-0.5", "--no-latency", "--format=csv")[1])))
    assert [row["uncounted"] for row in rows] == ["cumsum", ""]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MODEL is missing"),
        (["resnt50"], "did you mean"),
        (["wrn-10-1", "resnt50"], "unknown network 'resnt50'"),
        (["wrn-10-1", "--attention=se,see"], "unknown attention module 'see'"),
        (["wrn-10-1", "--gate=tanh"], "unknown gate 'tanh'"),
        (["wrn-10-1", "--attention=se", "--attention-stages=four"], "--attention-stages does not take"),
        (["wrn-10-1", "--attention=se", "--attention-stages=4"], "stages 1 to 3, not 4"),
        (["wrn-10-1", "--attention=shuffle"], "no module can be attached to any of the networks"),
        (
            ["wrn-10-1", "--attention=se", "--model-options={attention: cbam}"],
            "'attention' is no option of the networks",
        ),
        (["vgg11", "--image-size=8"], "does not take an image of 8 x 8"),
        (["wrn-10-1", "--image-size=0"], "image_size is 0"),
        (["wrn-10-1", f"--image-size={10**20}"], "image_size is 100000000000000000000"),
        (["wrn-10-1", "--num-classes=0"], "at least 1 class"),
        (["wrn-10-1", "--batch-size=0"], "--batch-size is 0"),
        (["wrn-10-1", f"--batch-size={10**20}"], "--batch-size is 100000000000000000000"),
        (["wrn-10-1", f"--repeats={10**20}"], "--repeats is 100000000000000000000"),
        (["wrn-10-1", "--device=gpu"], "device 'gpu'"),
        (["wrn-10-1", "--dtype=float8"], "float8"),
        (["wrn-10-1", "--format=xml"], "xml"),
        (["wrn-10-1", "--atention=se"], "did you mean --attention?"),
        (["wrn-10-1", "--out=none/costs.csv"], "no folder 'none'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_a_one_line_error(capsys, tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err, err
    assert err.count("regard: ") == 1
    assert not list(tmp_path.iterdir())


def test_help_names_the_options(capsys) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["complexity", "--help"])
    assert exit_info.value.code == 0
    assert "--attention" in capsys.readouterr().out
