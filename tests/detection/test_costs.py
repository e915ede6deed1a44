"""Parameters and operations of detectors, against SA-Net's table of object detection (arXiv 2102.00240)."""

import json

import pytest
import torch

from regard import detection
from regard.attention import parse_gate
from regard.cli import main

_RPN_RELU = 256 * sum(-(-800 // s) * -(-1280 // s) for s in (4, 8, 16, 32, 64))
_MASKS = 3 * 256 * 256 * 2 * 2 * 14 * 14 * 100  # the transposed convolution, counted for each of the four pixels


def cost(detector: str, network: str, attention: str) -> tuple[detection.DetectorCost, float, float]:
    """A row of the table, and by how much its parameters exceed and its operations fall below the printed ones."""
    module = None if attention == "none" else attention
    row = detection.DetectorCost(network, module, parse_gate("sigmoid"), None, (800, 1280), 80, detector=detector)
    with torch.device("meta"):
        model = row.build()
    row.complexity = row.count(model)
    pooled = row.complexity.operations.get("other norm", 0) / 2  # shuffle attention normalises half of the channels
    two_stage = detector != "retinanet"
    biases = [
        p for name, p in model.named_parameters() if ".se.fc" in name and name.endswith("bias") and p.requires_grad
    ]
    extra = sum(p.numel() for p in biases) if two_stage else 0
    missing = 4 * pooled - two_stage * _RPN_RELU + (detector == "mask-rcnn") * _MASKS
    return row, extra, missing


def check(detector: str, network: str, attention: str) -> None:
    row, extra, missing = cost(detector, network, attention)
    published = row.published
    misprint = (detector, network, attention) == ("retinanet", "resnet101", "shuffle")  # 56.64 for 56.74
    assert abs((row.complexity.parameters - extra) / 1e6 - float(published.parameters) - 0.1 * misprint) <= 0.0051
    assert f"{(row.complexity.published_flops + missing) / 1e9:.2f}" == published.gflops


def test_the_baseline_costs_equal_the_table_of_sa_net() -> None:
    check("mask-rcnn", "resnet50", "none")


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["faster-rcnn", "mask-rcnn", "retinanet"])
@pytest.mark.parametrize("network", ["resnet50", "resnet101"])
@pytest.mark.parametrize("attention", ["none", "se", "shuffle"])
def test_every_row_equals_the_table_of_sa_net(detector: str, network: str, attention: str) -> None:
    check(detector, network, attention)


def test_only_trainable_parameters_are_counted() -> None:
    with torch.device("meta"):
        model = detection.create("cascade-rcnn")
    assert round(detection.complexity(model, (32, 32)).parameters / 1e6, 3) == 69.169
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == 69.395


def test_the_complexity_command_counts_detectors(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["complexity", "resnet10t", "--detector", "fcos", "--attention", "se", "--image-size", "64", "--json"])
        == 0
    )
    plain, se = json.loads(capsys.readouterr().out)
    assert (plain["detector"], plain["network"], plain["image_size"], plain["classes"]) == ("fcos", "resnet10t", 64, 80)
    assert se["parameters"] > plain["parameters"]
    assert plain["inference_s"] is None
    assert main(["complexity", "resnet10t", "--detector", "yolo"]) == 2
    assert "faster-rcnn" in capsys.readouterr().err
