"""Network in Network: sizes, stages, and training with and without norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regard import InputError, attention, data, maps, models, transfer
from regard.stages import stages


def images(count: int = 2, size: int = 32, **options) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize(
    ("name", "batch_norm", "parameters"),
    [
        ("nin-wide", True, 1_005_642),
        ("nin-wide", False, 1_004_042),
        ("nin-thin", True, 256_298),
        ("nin-thin", False, 255_498),
        ("nin-1", True, 1_005_642),
        ("nin-0.5", True, 256_298),
    ],
)
def test_parameter_counts(name, batch_norm, parameters) -> None:
    model = models.create(name, 10, batch_norm=batch_norm)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert f"{parameters:,}" in models.NIN.__doc__
    assert any(isinstance(part, nn.BatchNorm2d) for part in model.modules()) == batch_norm


def test_complexity_equals_the_count_by_hand() -> None:
    cost = models.complexity(models.create("nin-wide", 10, batch_norm=False), 32)
    by_hand = (
        (75 * 192 + 192 * 160 + 160 * 96) * 32**2
        + (25 * 96 * 192 + 2 * 192 * 192) * 16**2
        + (9 * 192 * 192 + 2 * 192 * 192) * 8**2
        + 1920
    )
    assert cost.multiply_adds == by_hand
    assert cost.uncounted == {}


@pytest.mark.parametrize(("size", "sides"), [(32, (32, 16, 8)), (33, (33, 16, 8)), (30, (30, 15, 7))])
def test_stages_are_read_before_pooling(size, sides) -> None:
    model = models.create("nin-0.1", 7).eval()
    assert list(stages(model)) == ["group0", "group1", "group2"]
    with maps.Taps(model) as taps:
        assert model(images(size=size)).shape == (2, 7)
        assert tuple(f.shape[2] for f in taps.features.values()) == sides
        assert all((f >= 0).all() for f in taps.features.values())
    cam = maps.GradCAM(model)
    assert (tuple(cam.layers), cam(images(size=size)).shape) == (("group2",), (2, size, size))


def test_logits_are_the_means_of_the_class_maps() -> None:
    model = models.create("nin-0.1", 7).eval()
    with maps.Taps(model) as taps:
        logits = model(images())
        class_maps = F.conv2d(taps.features["group2"], model.fc.weight[:, :, None, None], model.fc.bias)
    torch.testing.assert_close(class_maps.mean((2, 3)), logits)


def test_relu_before_pooling_is_optional() -> None:
    model = models.create("nin-0.1", batch_norm=False, relu_before_pooling=False)
    last = [type(group[-1]) for group in stages(model).values()]
    assert last == [nn.Conv2d, nn.Conv2d, nn.ReLU]


def test_dropout_acts_in_training_only() -> None:
    model = models.create("nin-0.1", dropout=0.5, batch_norm=False)
    nn.init.normal_(model.fc.weight)
    assert not torch.equal(model(images()), model(images()))
    model.eval()
    assert torch.equal(model(images()), model(images()))


def test_memory_format_precision_and_compiling_change_nothing() -> None:
    model = models.create("nin-0.1").eval()
    nn.init.normal_(model.fc.weight)
    logits = model(images())
    torch.testing.assert_close(
        model.to(memory_format=torch.channels_last)(images().to(memory_format=torch.channels_last)), logits
    )
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(images()), logits)
    torch.testing.assert_close(model.double()(images().double()).float(), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("relu_before_pooling", [True, False])
def test_second_order_gradients_are_correct(relu_before_pooling) -> None:
    torch.manual_seed(0)
    model = models.create("nin-0.03", 3, batch_norm=False, relu_before_pooling=relu_before_pooling).double()
    nn.init.normal_(model.fc.weight)
    pixels = images(2, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x: F.cross_entropy(model(x), torch.tensor([0, 2])), (pixels,), fast_mode=True
    )


def test_gradient_transfer_reaches_every_parameter() -> None:
    student = models.create("nin-0.1", batch_norm=False).to(memory_format=torch.channels_last)
    objective = transfer.Objective(student, models.create("nin-0.2"), beta=0, gradient=1.0, symmetry=1.0)
    (losses := objective(images(), torch.tensor([3, 8]))).total.backward()
    assert {"gradient", "symmetry"} <= losses.terms.keys()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_stages_are_paired_with_those_of_a_wide_resnet() -> None:
    objective = transfer.Objective(models.create("nin-0.1"), models.create("wrn-10-1"), beta=1.0)
    losses = objective(images(), torch.tensor([3, 8]))
    assert [tuple(pair) for pair in objective.pairs] == [(name, name) for name in ("group0", "group1", "group2")]
    assert len(losses.pairs["attention"]) == 3


def test_attention_attaches_behind_every_convolution_or_group() -> None:
    model = models.create("nin-0.1")
    plain = set(model.state_dict())
    with pytest.warns(attention.PlacementWarning, match="behind 9 layers"):
        attention.attach(model, "se")
    assert list(attention.attached(model))[2:4] == ["group0.relu2.attention", "group1.relu0.attention"]
    attention.detach(model)
    assert set(model.state_dict()) == plain
    attention.attach(model, "se", where="stage")
    assert list(attention.attached(model)) == [
        f"{end}.attention" for end in ("group0.relu2", "group1.relu2", "group2.relu2")
    ]
    assert model(images()).shape == (2, 10)


@pytest.mark.slow
@pytest.mark.parametrize("lr", [0.01, 0.1])
def test_training_without_norms_works_at_usual_learning_rates(lr) -> None:
    torch.manual_seed(0)
    train = data.load("clutter", train=192, cue=1.0).train  # the background gives the class away
    pixels, labels = F.avg_pool2d(train.images.float() / 127.5 - 1, 2), train.labels
    model = models.create("nin-0.2", batch_norm=False).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    losses = []
    for _ in range(20):
        for batch, targets in zip(pixels.split(32), labels.split(32), strict=True):
            loss = F.cross_entropy(model(batch), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[0] == pytest.approx(2.3026, abs=0.05)  # no class is preferred
    assert sum(losses[-6:]) / 6 < 2.1


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nin-0.01", {}, "at least 1/96, not 0.01"),
        ("nin-wide", {"dropout": 1.0}, "dropout is 1.0"),
        ("nin-wide", {"batchnorm": False}, "'batchnorm'"),
        ("nin-narrow", {}, "nin-wide, nin-thin, nin-<width>"),
    ],
)
def test_wrong_names_and_options_fail(name, options, words) -> None:
    with pytest.raises(InputError) as caught:
        models.create(name, **options)
    assert words in str(caught.value), str(caught.value)
