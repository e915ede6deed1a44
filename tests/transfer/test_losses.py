"""The losses of transfer: their formulas, and first and second derivatives in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regard import InputError, transfer


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize(("power", "reduce"), [(1, "mean"), (2, "sum"), (4, "mean"), (1, "max"), (2, "max")])
def test_attention_loss_agrees_with_formula_and_numeric_gradients(form, power, reduce) -> None:
    student, teacher = features(2, 3, 3, 2).requires_grad_(), features(2, 4, 3, 2, seed=1)
    powers = [x.abs() ** power for x in (student, teacher)]
    s, t = (F.normalize((x.amax(1) if reduce == "max" else x.sum(1)).flatten(1)) for x in powers)
    distance = (s - t).square().sum(1).sqrt()
    expected = distance.square().mean() / 6 if form == "code" else distance.mean()

    def loss(x):
        return transfer.attention_loss(x, teacher, power, form, reduce=reduce)

    torch.testing.assert_close(loss(student), expected)
    assert torch.autograd.gradcheck(loss, student) and torch.autograd.gradgradcheck(loss, student)


def test_mean_and_sum_give_equal_attention_losses() -> None:
    student, teacher = features(2, 4, 6, 6), features(2, 9, 6, 6, seed=1)
    losses = [transfer.attention_loss(student, teacher, reduce=reduce) for reduce in ("mean", "sum")]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("to", ["paper", "code"])
def test_equivalent_betas_give_equal_gradients(to) -> None:
    """At the given distance, both forms have the same gradient with their betas."""
    student, teacher = features(1, 4, 8, 8).requires_grad_(), features(1, 4, 8, 8, seed=1)

    def gradient(form: str, beta: float) -> torch.Tensor:
        factor = beta if form == "code" else beta / 2
        loss = factor * transfer.attention_loss(student, teacher, form=form)
        return torch.autograd.grad(loss, student)[0]

    distance = transfer.attention_loss(student, teacher, form="paper").item()
    assert math.isclose(distance, math.sqrt(transfer.attention_loss(student, teacher).item() * 64))
    other = "code" if to == "paper" else "paper"
    beta = transfer.equivalent_beta(1e3, 64, distance, to)
    torch.testing.assert_close(gradient(to, beta), gradient(other, 1e3))
    for pixels, distance in ((1, 0.1), (64, 0), (64, 3)):
        with pytest.raises(InputError, match="at least 2 pixels"):
            transfer.equivalent_beta(1e3, pixels, distance)


@pytest.mark.parametrize("size", [(4, 4), (2, 3), (8, 5)])
def test_full_activation_loss_agrees_with_formula_and_numeric_gradients(size) -> None:
    regress = transfer.make_regressor(3, 5).double()
    student, teacher = features(2, 3, *size).requires_grad_(), features(2, 5, 4, 4, seed=1)
    common_size = [min(size[i], 4) for i in range(2)]
    regressed = torch.einsum(
        "oc,nchw->nohw", regress.weight.flatten(1), F.adaptive_avg_pool2d(student, common_size)
    ) + regress.bias.view(-1, 1, 1)
    expected = (regressed - F.adaptive_avg_pool2d(teacher, common_size)).square().mean()
    torch.testing.assert_close(transfer.full_activation_loss(student, teacher, regress), expected)
    assert torch.autograd.gradcheck(lambda x: transfer.full_activation_loss(x, teacher, regress), student)
    transfer.full_activation_loss(student, teacher, regress).backward()
    assert regress.weight.grad is not None and regress.weight.grad.abs().sum() > 0
    with pytest.raises(InputError, match="regressor gives"):
        transfer.full_activation_loss(student, teacher[:, :4], regress)
    with pytest.raises(InputError, match="needs"):
        transfer.full_activation_loss(student[0], teacher, regress)


def test_full_activation_loss_of_the_paper() -> None:
    student, teacher = features(2, 3, 4, 4).requires_grad_(), features(2, 3, 4, 4, seed=1)
    same = transfer.make_regressor(3, 3, "paper")
    assert isinstance(same, nn.Identity) and isinstance(transfer.make_regressor(3, 5, "paper"), nn.Conv2d)
    s, t = (x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True) for x in (student, teacher))
    loss = transfer.full_activation_loss(student, teacher, same, "paper")
    torch.testing.assert_close(loss, (2 - 2 * (s * t).sum(1)).mean())
    torch.testing.assert_close(transfer.full_activation_loss(7 * student, teacher, same, "paper"), loss)
    assert torch.autograd.gradcheck(lambda x: transfer.full_activation_loss(x, teacher, same, "paper"), student)
    with pytest.raises(InputError, match="known: fitnets, paper"):
        transfer.full_activation_loss(student, teacher, same, "code")


class Smooth(nn.Module):
    """A small network whose third derivatives exist."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(torch.tanh(self.conv(x)).mean((2, 3)))


def gradient_term(
    term: str, network: nn.Module, other: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    def gradients(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        return transfer.input_gradients(model(x), labels, x)

    network_gradients = gradients(network, images)
    if term == "gradient":
        return transfer.gradient_loss(network_gradients, gradients(other, images).detach())
    if term == "symmetry":
        return transfer.symmetry_loss(network_gradients, gradients(network, images.flip(3)))
    return transfer.squared_length(network_gradients)


@pytest.mark.parametrize("term", ["gradient", "symmetry", "input_gradient"])
def test_gradient_losses_agree_with_numeric_differences(term) -> None:
    """The derivatives of parameters by double backward against central differences."""
    torch.manual_seed(0)
    network, other = Smooth().double(), Smooth().double()
    images, labels = features(2, 3, 4, 5), torch.tensor([0, 2])
    loss = gradient_term(term, network, other, images, labels)
    loss.backward()
    # By hand: the sum over an image's pixels, the mean over images.
    x = images.clone().requires_grad_()
    (by_pixels,) = torch.autograd.grad(F.cross_entropy(network(x), labels, reduction="sum"), x)
    if term == "input_gradient":
        torch.testing.assert_close(loss, by_pixels.square().flatten(1).sum(1).mean())
    for parameter in network.parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for index in range(0, parameter.numel(), 7):
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter.view(-1)[index] += step
                values.append(gradient_term(term, network, other, images, labels).item())
                with torch.no_grad():
                    parameter.view(-1)[index] -= step
            assert math.isclose((values[0] - values[1]) / 2e-5, grad.view(-1)[index].item(), rel_tol=1e-5, abs_tol=1e-8)


def test_a_symmetric_network_has_symmetric_gradients() -> None:
    class Mirrored(Smooth):
        def forward(self, x):
            return super().forward(x) + super().forward(x.flip(3))

    network = Mirrored().double()
    assert gradient_term("symmetry", network, network, features(2, 3, 4, 4), torch.tensor([0, 1])).item() < 1e-20
    assert gradient_term("gradient", network, network, features(2, 3, 4, 4), torch.tensor([0, 1])).item() < 1e-20


def test_incomparable_features_fail() -> None:
    flat, pixel = torch.rand(2, 3), torch.rand(2, 3, 1, 1)
    for student, teacher, message in (
        (flat, torch.rand(2, 3, 4, 4), "the student's features are (2, 3); attention needs"),
        (torch.rand(2, 3, 4, 4), flat, "the teacher's features"),
        (torch.rand(2, 3, 4, 4), pixel, "single pixel"),
        (torch.rand(2, 3, 4, 4), torch.rand(3, 3, 4, 4), "student has features of 2 images, the teacher of 3"),
    ):
        with pytest.raises(InputError) as error:
            transfer.attention_loss(student, teacher)
        assert message in str(error.value) and "\n" not in str(error.value)
