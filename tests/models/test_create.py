"""Networks by name."""

from __future__ import annotations

import pytest
import torch

from regard import InputError, models


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        # published counts: He et al. table 6 (0.27M, 0.85M), Attention Transfer table 1 (0.2M, 0.7M, 0.6M, 2.2M)
        ("cifar-resnet20", {"block": "basic"}, 272_474),
        ("cifar-resnet56", {"block": "basic"}, 855_770),
        ("cifar-resnet164", {}, 1_704_154),
        ("wrn-16-1", {}, 175_066),
        ("wrn-16-2", {}, 691_674),
        ("wrn-40-1", {}, 563_930),
        ("wrn-40-2", {}, 2_243_546),
    ],
)
def test_parameter_counts_are_the_published_ones(name, options, parameters) -> None:
    model = models.create(name, 10, **options)
    actual = sum(p.numel() for p in model.parameters())
    # Shortcuts of the basic ResNets are convolutions here and have no parameters in the paper: 0.003M.
    assert abs(actual - parameters) < 0.003 * parameters + 3000
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_any_image_size_and_any_timm_network() -> None:
    assert models.create("wrn-10-1.5", 7).eval()(torch.zeros(2, 3, 48, 40)).shape == (2, 7)
    assert models.create("mobilenetv3_small_050", 7).eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_uniform_norm_weights_start_as_in_the_published_code() -> None:
    starts = []
    for options in ({}, {"uniform_norm_weights": True}):
        torch.manual_seed(0)
        starts.append(models.create("wrn-16-2", **options).state_dict())
    plain, published = starts
    norms = {name for name in plain if ".bn" in f".{name}" and name.endswith("weight")}
    assert len(norms) == 13
    assert all(torch.equal(plain[name], published[name]) for name in plain if name not in norms)
    assert all((plain[name] == 1).all() for name in norms)
    weights = torch.cat([published[name] for name in norms])
    assert 0 <= weights.min() < 0.01 < 0.99 < weights.max() < 1
    assert abs(weights.mean() - 0.5) < 0.05 and abs(weights.var() - 1 / 12) < 0.01


def test_wrong_names_and_options_fail_with_one_line() -> None:
    for call, words in (
        (lambda: models.create("cifar-resnet32"), "block='basic' has it"),
        (lambda: models.create("cifar-resnet165"), "9 n + 2, not 165"),
        (lambda: models.create("cifar-resnet20", block="big"), "known: bottleneck, basic"),
        (lambda: models.create("cifar-resnet20", blok="basic"), "'blok'"),
        (lambda: models.create("wrn-17-1"), "6 n + 4"),
        (lambda: models.create("wrn-16-0.01"), "at least 1/16"),
        (lambda: models.create("wrn-16-1", pretrained=True), "no pretrained weights"),
        (lambda: models.create("resnt50"), "did you mean"),
        (lambda: models.create("resnet10t.nobody"), "resnet10t.nobody"),
        (lambda: models.create("resnet10t", drop_rate=float("inf")), "beyond 100,000"),
        (lambda: models.create("resnet10t", drop_rate=float("nan")), "NaN"),
        (lambda: models.create("wrn-16-1", 0), "at least 1 class"),
        (lambda: models.create("wrn-16-1", attention_stages=(1,)), "attention is not"),
        (lambda: models.create("wrn-16-1", attention="se", attention_options={"stages": [3]}), "'stages'"),
        (lambda: models.create("resnet10t", checkpoint_path="a.pth"), "checkpoint_path"),
        (lambda: models.create("torchvision/resnet18", **{"pretrained": False, "weights": "DEFAULT"}), "weights"),
        (lambda: models.create("resnet10t", stem_width="wide"), "resnet10t"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert words in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)


def test_complexity_equals_the_count_by_hand() -> None:
    model = models.create("wrn-10-1", 10).train()
    cost = models.complexity(model, 32)
    by_hand = (
        27 * 16 * 32**2
        + 2 * 144 * 16 * 32**2
        + (144 * 32 + 288 * 32 + 16 * 32) * 16**2
        + (288 * 64 + 576 * 64 + 32 * 64) * 8**2
        + 640
    )
    assert (cost.parameters, cost.multiply_adds) == (sum(p.numel() for p in model.parameters()), by_hand)
    assert all(module.training for module in model.modules())
