"""Teachers: their inputs, how they run, and that they stay unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regard import InputError, models, transfer
from regard.transfer.teacher import frozen


def randomized_network(name: str = "wrn-10-1", **options) -> nn.Module:
    """A network with randomised batch norms."""
    torch.manual_seed(3)
    model = models.create(name, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model


def test_images_are_renormalised_and_resized() -> None:
    raw = torch.rand(2, 3, 12, 16)
    student_statistics, teacher_statistics = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)), ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))

    def normalised(mean, std):
        return (raw - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    teacher = transfer.Teacher(
        randomized_network(),
        mean=teacher_statistics[0],
        std=teacher_statistics[1],
        images_mean=student_statistics[0],
        images_std=student_statistics[1],
        size=(24, 32),
    )
    resized = F.interpolate(
        normalised(*teacher_statistics), (24, 32), mode="bilinear", antialias=True, align_corners=False
    )
    torch.testing.assert_close(teacher.images(normalised(*student_statistics)), resized)
    assert transfer.Teacher(randomized_network()).images(raw) is raw
    with pytest.raises(InputError, match="all of them or none"):
        transfer.Teacher(randomized_network(), mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wrn-10-1", "resnet18", "preact-resnet18"])
def test_folded_teachers_give_equal_maps_and_logits(name) -> None:
    model, student = randomized_network(name).double(), randomized_network(name).double()
    images, labels = torch.randn(2, 3, 64, 64, dtype=torch.float64), torch.tensor([0, 1])
    plain = transfer.Objective(student, transfer.Teacher(model), alpha=0.5)(images, labels)
    teacher = transfer.Teacher(model, fold=True)
    objective = transfer.Objective(student, teacher, alpha=0.5)
    folded = objective(images, labels)
    torch.testing.assert_close(folded.total, plain.total, rtol=1e-9, atol=0)
    network = objective._paired_teachers[0].network.model
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (network, model)]
    assert norms[0] < norms[1] and network is not model


def test_half_precision_teachers_give_similar_losses() -> None:
    model, student = randomized_network(), randomized_network()
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    exact = transfer.Objective(student, transfer.Teacher(model), alpha=0.5)(images, labels)
    for fold in (False, True):
        objective = transfer.Objective(student, transfer.Teacher(model, precision=torch.bfloat16, fold=fold), alpha=0.5)
        half = objective(images, labels)
        assert half.logits.dtype == torch.float32
        torch.testing.assert_close(half.terms["distillation"], exact.terms["distillation"], rtol=0.05, atol=1e-3)
        torch.testing.assert_close(
            torch.stack(half.pairs["attention"]), torch.stack(exact.pairs["attention"]), rtol=0.05, atol=1e-6
        )
        assert half.terms["distillation"] != exact.terms["distillation"]
        running = objective._paired_teachers[0].network.model
        kinds = {type(m): m.weight.dtype for m in running.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)}
        assert kinds[nn.Conv2d] == torch.bfloat16 and kinds.get(nn.BatchNorm2d, torch.float32) == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert transfer.Teacher(randomized_network().double(), precision="auto").dtype() is None
    assert transfer.Teacher(model, precision="auto").dtype() in (None, torch.bfloat16)


def test_teachers_are_unchanged_and_save_nothing_for_backward() -> None:
    model, student = randomized_network("wrn-16-2"), randomized_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    saved: list[torch.Tensor] = []

    def save(tensor):
        saved.append(tensor)
        return tensor

    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    objective = transfer.Objective(student, model.train(), alpha=0.5, gradient=1.0, image_size=32)
    objective(images, labels).total.backward()
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        transfer.Objective(student, model, alpha=0.5)(images, labels)
    sizes = {tuple(tensor.shape[1:]) for tensor in saved}
    assert (16, 32, 32) in sizes  # the student's
    assert not {(32, 32, 32), (64, 16, 16), (128, 8, 8)} & sizes  # the teacher's


def test_frozen_restores_the_model() -> None:
    model = randomized_network()
    model.fc.bias.requires_grad_(False)
    model.group1.eval()
    with frozen(model):
        assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert model.training and not model.group1.training and model.fc.weight.requires_grad
    assert not model.fc.bias.requires_grad
