"""Learning rate and optimizer."""

from __future__ import annotations

import pytest
import torch

from regard import attention, models
from regard.training import OptimizerRecipe, ScheduleRecipe, learning_rate, make_optimizer


def test_milestones_fall_at_the_start_of_their_epochs() -> None:
    schedule = ScheduleRecipe(epochs=10, milestones=[3, 6], factor=0.1)
    found = [learning_rate(schedule, 1.0, step, 4) for step in (0, 11, 12, 23, 24, 39)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_falls_to_zero_behind_the_warm_up() -> None:
    schedule = ScheduleRecipe(epochs=10, shape="cosine", warmup=2)
    found = [learning_rate(schedule, 0.5, step, 10) for step in range(101)]
    assert 0 < found[0] < found[19] < 0.5
    assert found[20] == 0.5
    assert found[60] == pytest.approx(0.25)
    assert found[100] == pytest.approx(0)
    assert found[20:] == sorted(found[20:], reverse=True)


def test_decay_of_weights_alone_spares_norms_biases_and_gates() -> None:
    model = models.create(
        "cifar-resnet11", attention="shuffle", attention_options={"groups": 4}, gate=attention.SubAttention(1)
    )
    weights = OptimizerRecipe(decay="weights")
    decaying = make_optimizer(model, weights).param_groups[-1]["params"]
    expected = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert {id(p) for p in decaying} == {id(p) for p in expected}
    groups = make_optimizer(model, weights).param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert groups[0]["weight_decay"] == 0
    (everything,) = make_optimizer(model, OptimizerRecipe()).param_groups
    assert everything["weight_decay"] == 5e-4
