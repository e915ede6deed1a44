"""The losses and the objective of transfer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regard import InputError, attention, models, transfer

pytestmark = pytest.mark.slow


def test_golden_losses(goldens, relative_error) -> None:
    case, expected = "attention_transfer_losses", goldens.outputs("attention_transfer_losses")
    values = {name: goldens.inputs(name, shape) for name, shape in goldens.index[case]["inputs"].items()}
    student = values["at.student"].requires_grad_()
    loss = transfer.attention_loss(student, values["at.teacher"])
    loss.backward()
    assert relative_error(loss, expected["at_loss"]) < 1e-9
    assert relative_error(student.grad, expected["at_loss_grad_student"]) < 1e-9
    logits = values["kd.student"].requires_grad_()
    loss = transfer.distillation_loss(logits, values["kd.teacher"], torch.arange(8), temperature=4, alpha=0.9)
    loss.backward()
    assert relative_error(loss, expected["distillation"]) < 1e-9
    assert relative_error(logits.grad, expected["distillation_grad_student"]) < 1e-9


def descend(objective, model, goldens, weight_decay) -> list[list[float]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=weight_decay)
    rows = []
    for step in range(6):
        losses = objective(goldens.inputs(f"trajectory.{step}", [16, 3, 32, 32]), torch.arange(16) % 10)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        rows.append([losses.total.item(), *(loss.item() for loss in losses.pairs.get("attention", ()))])
    return rows


def test_golden_trajectory_of_attention_and_distillation(goldens, relative_error) -> None:
    student, teacher = models.create("wrn-16-1").double(), models.create("wrn-16-2").double()
    models.load_official(student, goldens.state("wrn_16_1", "student."))
    models.load_official(teacher, goldens.state("wrn_16_2", "teacher."))
    objective = transfer.Objective(student, teacher, beta=1e3, alpha=0.9, temperature=4)
    rows = torch.tensor(descend(objective, student, goldens, 5e-4), dtype=torch.float64)
    assert relative_error(rows, goldens.outputs("trajectory_at_kd")["losses"]) < 1e-9
    assert not teacher.training and student.training


def test_golden_trajectory_of_lsas(goldens, relative_error) -> None:
    gate = attention.SubAttention(1)
    model = models.create("cifar-resnet11", attention="se", gate=gate, attention_stages=(3,)).double()
    models.load_official(model, goldens.state("lsas_cifar_d11_order1"))
    rows = torch.tensor(descend(transfer.Objective(model, None), model, goldens, 1e-4), dtype=torch.float64)
    assert relative_error(rows[:, 0], goldens.outputs("trajectory_lsas")["losses"]) < 1e-9


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("power", [1, 2, 3, 4])
def test_attention_loss_agrees_with_formula_and_gradient(form, power) -> None:
    torch.manual_seed(0)
    student = torch.randn(3, 4, 5, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 6, 5, 2, dtype=torch.float64)
    s, t = (F.normalize(x.abs().pow(power).mean(1).flatten(1)) for x in (student, teacher))
    expected = (s - t).pow(2).mean() if form == "code" else (s - t).pow(2).sum(1).sqrt().mean()
    torch.testing.assert_close(transfer.attention_loss(student, teacher, power, form), expected)
    assert torch.autograd.gradcheck(lambda x: transfer.attention_loss(x, teacher, power, form), student)


def test_attention_loss_is_zero_for_scaled_features() -> None:
    features = torch.randn(2, 4, 6, 6)
    assert transfer.attention_loss(features, 3 * features).item() < 1e-10


def test_larger_maps_are_pooled_to_the_smaller_size() -> None:
    large, small = torch.rand(2, 4, 8, 8), torch.rand(2, 3, 4, 4)
    pooled = F.adaptive_avg_pool2d(large.square().mean(1), 4)
    expected = (F.normalize(pooled.flatten(1)) - F.normalize(small.square().mean(1).flatten(1))).square().mean()
    torch.testing.assert_close(transfer.attention_loss(large, small), expected)
    torch.testing.assert_close(transfer.attention_loss(small, large), expected)


def test_the_total_is_the_weighted_sum() -> None:
    torch.manual_seed(0)
    student, teacher = models.create("wrn-10-1"), models.create("wrn-10-2")
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    for form, weight in (("code", 100.0), ("paper", 50.0)):
        losses = transfer.Objective(student, teacher, beta=100, alpha=0.3, form=form)(images, labels)
        expected = (
            0.7 * losses.terms["task"] + 0.3 * losses.terms["distillation"] + weight * sum(losses.pairs["attention"])
        )
        torch.testing.assert_close(losses.total, expected)
        assert len(losses.pairs["attention"]) == 3
    torch.testing.assert_close(losses.terms["task"], F.cross_entropy(losses.logits, labels))
    chosen = transfer.Objective(student, teacher, beta=1, layers=["group1", ("group2", "bn")])(images, labels)
    assert len(chosen.pairs["attention"]) == 2
    assert not transfer.Objective(student, teacher, beta=0, alpha=0.5)(images, labels).pairs
    losses.total.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert not student._forward_hooks and not student.group0._forward_hooks


def test_wrong_input_fails_with_one_line() -> None:
    student = models.create("wrn-10-1")
    images, labels = torch.randn(2, 3, 32, 32), torch.arange(2)
    other = models.create("wrn-10-1", 100)
    for call, message in (
        (
            lambda: transfer.Objective(student, other, beta=0, alpha=0.5)(images, labels),
            "10 logits and the teacher 100",
        ),
        (lambda: transfer.Objective(student, other, alpha=2), "[0, 1]"),
        (lambda: transfer.Objective(student, other, beta=-1), "at least 0"),
        (lambda: transfer.Objective(student, other, form="book"), "known: code, paper"),
        (lambda: transfer.Objective(student, other, layers=["group7"])(images, labels), "group7"),
        (lambda: transfer.Objective(student, nn.Linear(2, 2), beta=1)(images, labels), "no stages that regard"),
        (lambda: transfer.attention_loss(torch.rand(2, 3), torch.rand(2, 3, 4, 4)), "(N, C, H, W)"),
        (lambda: transfer.attention_loss(torch.rand(1, 3, 4, 4), torch.rand(2, 3, 4, 4)), "features of 1 images"),
        (lambda: transfer.soft_label_loss(torch.rand(2, 3), torch.rand(2, 3), 0), "(0, inf)"),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert message in str(error.value), str(error.value)
        assert "\n" not in str(error.value)
