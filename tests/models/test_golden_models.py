"""Networks against the three published implementations, with state dicts from their code."""

from __future__ import annotations

import re

import pytest
import torch

from regard import attention, maps, models

CIFAR = [f"lsas_cifar_d11_order{order}" for order in range(6)] + ["lsas_cifar_d20_order1", "senet_cifar_d11"]
IMAGENET = ["lsas_resnet18", "lsas_resnet50", "senet_resnet50", "sa_resnet50", "sa_resnet101"]
WIDE = ["wrn_16_1", "wrn_16_2"]


def create(case: str, description: dict) -> torch.nn.Module:
    classes = description["state"]["fc.weight"][0]
    if case in WIDE:
        return models.create(case.replace("_", "-"), classes)
    name = "cifar-resnet" + re.search(r"_d(\d+)", case)[1] if case in CIFAR else case.split("_")[1]
    if case.startswith("sa_"):
        return models.create(name, classes, attention="shuffle")
    if case.startswith("senet"):
        return models.create(name, classes, attention="se")
    gate = attention.SubAttention(description.get("order", 1))
    stages = (3,) if case in CIFAR else (3, 4)
    return models.create(name, classes, attention="se", gate=gate, attention_stages=stages)


@pytest.mark.slow
@pytest.mark.parametrize("case", CIFAR + IMAGENET + WIDE)
def test_logits_equal_the_published_code(case, goldens, relative_error) -> None:
    description, expected = goldens.index[case], goldens.outputs(case)
    model = create(case, description).double()
    assert sum(p.numel() for p in model.parameters()) == description["parameters"]
    assert models.load_official(model, goldens.state(case)) is model
    with torch.no_grad(), maps.Taps(model) as taps:
        assert relative_error(model.eval()(goldens.images(case)), expected["logits_eval"]) < 1e-9
        if case in WIDE:
            for i, features in enumerate(taps.features.values()):
                actual = torch.nn.functional.normalize(maps.activation_map(features).flatten(1))
                assert relative_error(actual, expected[f"group{i}_eval_at"]) < 1e-9
        if "logits_train" in expected:
            assert relative_error(model.train()(goldens.images(case)), expected["logits_train"]) < 1e-9


def test_logits_in_single_precision(goldens, relative_error) -> None:
    for case in ("lsas_cifar_d11_order1", "wrn_16_2"):
        model = models.load_official(create(case, goldens.index[case]), goldens.state(case)).eval()
        with torch.no_grad():
            actual = model(goldens.images(case).float())
        assert relative_error(actual, goldens.outputs(case)["logits_eval"]) < 1e-4


def test_group_activation_equals_the_published_code(goldens, relative_error) -> None:
    description = goldens.index["group_activation"]
    model = models.create("resnet50", 10, attention="shuffle", layers=[1, 1, 1, 1]).double().eval()
    models.load_official(model, goldens.state("group_activation"))
    actual = maps.group_activation(model, "layer4.0", goldens.images("group_activation"), 3, 64)
    assert actual.shape == (1, 64)
    assert relative_error(actual[0], goldens.outputs("group_activation")["scores"]) < 1e-9
    assert description["input_shape"][0] == 1
