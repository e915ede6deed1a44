"""Guidance: values of the losses, differentiable maps, the term of the objective."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard import InputError, maps, models, transfer
from regard.maps.pooled import pooled_features
from regard.transfer import guidance_loss, make_guide

FORMS = ("energy", "l1", "ppce", "rrr")


def region(*rows: str) -> Tensor:
    return torch.tensor([[pixel == "x" for pixel in row] for row in rows])[None]


MAP = torch.tensor([[[4.0, 1.0, 0.0], [2.0, -3.0, 1.0]]])
LEFT = region("x..", "x..")
BY_HAND = {
    "energy": 1 - 6 / 8,
    "l1": (0 + 0.25 + 0 + 0.5 + 0 + 0.25) / 6,
    "ppce": (0 + math.log(2)) / 2,
    "rrr": 1 + 0 + 9 + 1,
}


@pytest.mark.parametrize("form", FORMS)
def test_losses_by_hand(form) -> None:
    assert guidance_loss(MAP, LEFT, form).item() == pytest.approx(BY_HAND[form])
    scaled = BY_HAND[form] * (100 if form == "rrr" else 1)  # only rrr depends on the scale
    assert guidance_loss(MAP * 10, LEFT, form).item() == pytest.approx(scaled)


@pytest.mark.parametrize("form", FORMS)
def test_losses_agree_with_the_formulas(form) -> None:
    """Written image by image, as Rao et al. and Ross et al. define them."""
    generator = torch.Generator().manual_seed(0)
    cams = torch.randn(6, 5, 7, generator=generator, dtype=torch.float64)
    regions = torch.rand(6, 5, 7, generator=generator) < 0.4
    expected = []
    for cam, inside in zip(cams, regions, strict=True):
        positive = cam.clamp(min=0)
        scaled = positive / positive.max()
        expected.append(
            {
                "energy": 1 - positive[inside].sum() / positive.sum(),
                "l1": F.l1_loss(scaled, inside.double()),
                "ppce": F.binary_cross_entropy(scaled[inside], torch.ones_like(scaled[inside])),
                "rrr": cam[~inside].square().sum(),
            }[form]
        )
    torch.testing.assert_close(guidance_loss(cams, regions, form), torch.stack(expected).mean())


CONSTANT, ZERO, NEGATIVE = torch.full((1, 4, 4), 3.0), torch.zeros(1, 4, 4), torch.full((1, 4, 4), -1.0)
QUARTER, NONE, ALL = region("xx..", "xx..", "....", "...."), region(*["...."] * 4), region(*["xxxx"] * 4)


@pytest.mark.parametrize(
    ("cam", "mask", "values"),
    [
        (CONSTANT, QUARTER, (0.75, 0.75, 0, 12 * 9)),
        (ZERO, QUARTER, (1, 0.25, 100, 0)),
        (NEGATIVE, QUARTER, (1, 0.25, 100, 12)),
        (CONSTANT, NONE, (0, 0, 0, 0)),
        (ZERO, NONE, (0, 0, 0, 0)),
        (CONSTANT, ALL, (0, 0, 0, 0)),
        (ZERO, ALL, (1, 1, 100, 0)),
        (1e-30 * CONSTANT, QUARTER, (1, 0.25, 100, 0)),
    ],
)
def test_degenerate_maps_and_regions_have_finite_gradients(cam, mask, values) -> None:
    for form, value in zip(FORMS, values, strict=True):
        cam = cam.clone().requires_grad_()
        loss = guidance_loss(cam, mask, form)
        assert loss.item() == pytest.approx(value, abs=1e-6)
        (gradient,) = torch.autograd.grad(loss, cam)
        assert gradient.isfinite().all() and gradient.abs().max() < 1e3
        assert mask.any() or not gradient.any()


@pytest.mark.parametrize("form", FORMS)
def test_images_without_a_region_contribute_nothing(form) -> None:
    cams = torch.cat([MAP, torch.full_like(MAP, math.inf), MAP.flip(2)]).requires_grad_()
    regions = torch.cat([LEFT, torch.zeros_like(LEFT), LEFT])
    loss = guidance_loss(cams, regions, form)
    torch.testing.assert_close(loss, guidance_loss(cams[::2], regions[::2], form))
    cams = cams.detach().nan_to_num(posinf=7.0).requires_grad_()
    (gradient,) = torch.autograd.grad(guidance_loss(cams, regions, form), cams)
    assert not gradient[1].any() and gradient[0].any()


def test_regions_are_pooled_to_the_grid_of_the_map() -> None:
    """A partly covered map pixel counts by its share, as if each map pixel were repeated."""
    large = region("xxx.", "xxx.", "xx..", "x...")
    cam = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    energy = 1 - (1 * 1 + 2 * 0.5 + 3 * 0.75) / 10
    assert guidance_loss(cam, large).item() == pytest.approx(energy)
    enlarged = cam.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(guidance_loss(enlarged, large), guidance_loss(cam, large))
    coarse = region("x.", "..")
    torch.testing.assert_close(guidance_loss(enlarged, coarse), guidance_loss(cam, coarse))


@pytest.mark.parametrize("form", FORMS)
def test_numeric_gradients_of_the_losses(form) -> None:
    generator = torch.Generator().manual_seed(2)
    cams = torch.randn(3, 3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    regions = torch.rand(3, 6, 8, generator=generator) < 0.5
    assert torch.autograd.gradcheck(lambda values: guidance_loss(values, regions, form), (cams,))


def test_half_precision_is_computed_in_float32() -> None:
    cams = MAP.repeat(1, 60, 60).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = guidance_loss(cams, LEFT)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(guidance_loss(cams.float(), LEFT).item())


@pytest.mark.parametrize(
    ("cams", "regions", "form"),
    [
        (MAP[0], LEFT, "energy"),
        (MAP.long(), LEFT, "energy"),
        (MAP, LEFT.float(), "energy"),
        (MAP, LEFT.repeat(2, 1, 1), "energy"),
        (MAP, LEFT, "energie"),
    ],
)
def test_wrong_input_fails_with_one_line(cams, regions, form) -> None:
    with pytest.raises(InputError) as error:
        guidance_loss(cams, regions, form)
    assert "\n" not in str(error.value)


# Maps


def network(name: str = "wrn-10-0.25", **options) -> nn.Module:
    """A network in float64, with randomised batch norms and gates."""
    torch.manual_seed(0)
    model = models.create(name, num_classes=5, **options).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    for parameter_name, parameter in model.named_parameters():
        if "attention" in parameter_name and not parameter.any():
            nn.init.normal_(parameter, 1, 0.2)
    return model


def batch(size: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(4, 3, size, size, generator=generator, dtype=torch.float64)
    regions = torch.zeros(4, size, size, dtype=torch.bool)
    regions[:3, 2:9, 5:13] = True
    return images, torch.tensor([0, 3, 3, 1]), regions


def guide_maps(model: nn.Module, kind: str, **options) -> dict[str, Tensor]:
    images, labels, _ = batch()
    images.requires_grad_(kind == "input_gradient")
    guide = make_guide(model, kind, size=(16, 16), **options)
    with guide:
        logits = model(images)
    return guide.maps(logits, labels, images)


GUIDED = {
    "cam": {},
    "gradcam": {"guidance_layers": ["group1", "group2"]},
    "input_gradient": {},
    "attention": {"guidance_layers": ["group0", "group2"]},
    "gate": {},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", GUIDED)
def test_numeric_gradients_through_maps_in_training(kind, form) -> None:
    gates = {"attention": "shuffle", "attention_options": {"groups": 1}} if kind == "gate" else {}
    model = network(**gates)
    objective = transfer.Objective(model, None, guidance=3.0, guidance_maps=kind, guidance_form=form, **GUIDED[kind])
    images, labels, regions = batch()
    objective.train()
    losses = objective(images, labels, regions=regions)
    assert losses.terms["guidance"] > 0 and losses.total.item() == pytest.approx(
        (losses.terms["task"] + 3 * losses.terms["guidance"]).item()
    )
    losses.total.backward()
    generator, step = torch.Generator().manual_seed(4), 1e-6
    parameters = [p for p in model.parameters() if p.grad is not None]
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slope = sum((p.grad * d).sum() for p, d in zip(parameters, directions, strict=True))

    def loss_after_step(size: float) -> Tensor:
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=size)
        return objective(images, labels, regions=regions).total.detach()

    ahead, behind = loss_after_step(step), loss_after_step(-2 * step)
    torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cifar-resnet11", "resnet10t"])
def test_cams_equal_grad_cams_with_double_backward(name) -> None:
    """Both kinds of maps of the pooled features have the same gradients for all parameters."""
    model = network(name).eval()
    layer = pooled_features(model, (48, 48)).layer
    images, labels, regions = batch(48)
    gradients = []
    for kind, layers in (("cam", None), ("gradcam", [layer])):
        guide = make_guide(model, kind, layers=layers, size=(48, 48))
        with guide:
            logits = model(images)
        (cam,) = guide.maps(logits, labels, images).values()
        expected = maps.GradCAM(model, layer)(images, labels, upsample=False)
        torch.testing.assert_close(cam, expected, rtol=1e-5, atol=1e-9)
        (100 * guidance_loss(cam, regions, "rrr") + guidance_loss(cam, regions)).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None and p.grad.any()])
        model.zero_grad()
    assert len(gradients[0]) == len(gradients[1]) > 5
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("name", "pooled"), [("wrn-10-0.25", "bn"), ("mobilenetv2-cifar", "bn2")])
def test_cams_of_networks_with_relu_before_pooling(name, pooled) -> None:
    model = network(name).eval()
    layer, activation, classifier = pooled_features(model, (48, 48))
    assert (layer, activation) == (pooled, "relu")
    images, labels, _ = batch(48)
    guide = make_guide(model, size=(48, 48))
    with guide, maps.Taps(model, layer) as taps:
        logits = model(images)
        features = taps.features[layer].relu()
    weights = model.get_submodule(classifier).weight[labels]
    expected = torch.einsum("nc,nchw->nhw", weights, features).relu() / features[0, 0].numel()
    torch.testing.assert_close(guide.maps(logits, labels, images)[layer], expected)


def test_maps_agree_with_their_definitions() -> None:
    model = network().eval()
    images, labels, _ = batch()
    (attended,) = guide_maps(model, "attention", layers=["group1"]).values()
    expected = maps.ActivationMap(model, "group1")(images, upsample=False)
    torch.testing.assert_close(attended, expected)
    (cam,) = guide_maps(model, "gradcam", layers=["group1"]).values()
    torch.testing.assert_close(cam, maps.GradCAM(model, "group1")(images, labels, upsample=False))
    images.requires_grad_()
    (slope,) = torch.autograd.grad(model(images).log_softmax(1).sum(), images)
    (gradient,) = guide_maps(model, "input_gradient").values()
    torch.testing.assert_close(gradient, slope.square().sum(1).sqrt())


def test_detached_weights_get_no_gradient_and_keep_the_map() -> None:
    model = network()
    plain, detached = ([*guide_maps(model, "cam", detach=detach).values()][0] for detach in (False, True))
    assert torch.equal(plain, detached)
    (weight_gradient,) = torch.autograd.grad(detached.sum(), model.fc.weight, allow_unused=True)
    assert weight_gradient is None and torch.autograd.grad(plain.sum(), model.fc.weight)[0].any()


def test_binary_labels_and_class_shares() -> None:
    torch.manual_seed(0)
    model = models.create("wrn-10-0.25", num_classes=1).double().eval()
    images, _, _ = batch()
    guide = make_guide(model, size=(16, 16))
    with guide:
        logits = model(images)
    by_index = guide.maps(logits, torch.tensor([1, 0, 1, 0]), images)["bn"]
    by_one_hot = guide.maps(logits, torch.tensor([[0.0, 1], [1, 0], [0, 1], [1, 0]]), images)["bn"]
    torch.testing.assert_close(by_index, by_one_hot)
    multiclass = network().eval()
    guide = make_guide(multiclass, size=(16, 16))
    with guide:
        logits = multiclass(images)
    shares = torch.tensor([[0.0, 1, 0, 0, 0]] * 4)
    by_share, by_label = (guide.maps(logits, labels, images)["bn"] for labels in (shares, torch.ones(4).long()))
    torch.testing.assert_close(by_share, by_label)


@pytest.mark.parametrize("name", ["cbam", "bam", "sge", "shuffle", "triplet"])
def test_spatial_gates_of_the_last_stage(name) -> None:
    options = {"groups": 2} if name == "shuffle" else {}
    model = network("cifar-resnet11", attention=name, attention_options=options)
    images, labels, _ = batch()
    state = copy.deepcopy(model.state_dict())
    guide = make_guide(model, "gate", size=(16, 16))
    with guide:
        logits = model(images)
    gates = guide.maps(logits, labels, images)
    assert list(gates) == ["layer3.0.attention"] and gates["layer3.0.attention"].shape == (4, 4, 4)
    assert gates["layer3.0.attention"].std((1, 2)).min() > 1e-4
    other = network("cifar-resnet11", attention=name, attention_options=options)
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    assert torch.equal(other(images), logits)  # the running statistics were updated once only
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in other.state_dict().items())
    everywhere = make_guide(model, "gate", layers=["layer1", "layer3.0.attention"], size=(16, 16))
    assert everywhere.taps.layers == ("layer1.0.attention", "layer3.0.attention")


def test_the_second_half_of_shuffle_attention_is_gated_by_pixel() -> None:
    module = network("cifar-resnet11", attention="shuffle", attention_options={"groups": 4}).layer3[0].attention
    features = torch.randn(2, 256, 4, 4, dtype=torch.float64)
    varies = module.gate_values(features).std((2, 3)).amin(0) > 1e-9
    assert torch.equal(varies, module.by_pixel) and int(varies.sum()) == 128


# The objective


def test_guidance_averages_over_images_with_regions_in_any_split() -> None:
    model = network().eval()
    objective = transfer.Objective(model, None, guidance=1.0, image_size=16)
    images, labels, regions = batch()
    regions[0] = False
    expected = objective(images, labels, regions=regions).terms["guidance"]
    torch.testing.assert_close(expected, objective(images[1:3], labels[1:3], regions=regions[1:3]).terms["guidance"])
    parts = [
        objective(images[i : i + 2], labels[i : i + 2], regions=regions[i : i + 2], guided=2 / 4).terms["guidance"]
        for i in (0, 2)
    ]
    torch.testing.assert_close(expected, (parts[0] + parts[1]) / 2)
    unguided = objective(images, labels, regions=torch.zeros_like(regions))
    unguided.total.backward()
    assert unguided.terms["guidance"] == 0 and all(p.grad.isfinite().all() for p in model.parameters())


def test_guidance_composes_with_a_teacher_and_follows_its_schedule() -> None:
    student, teacher = network(), network("wrn-10-0.5").eval()
    weight = transfer.Weight(0, 2, until=0.5)
    objective = transfer.Objective(student, teacher, beta=10, alpha=0.5, guidance=weight, image_size=16)
    images, labels, regions = batch()
    assert "guidance" not in objective(images, labels).terms  # its weight is still 0
    losses = objective(images, labels, progress=0.25, regions=regions)
    assert list(losses.terms) == ["task", "distillation", "attention", "guidance"]
    terms = losses.terms
    total = 0.5 * terms["task"] + 0.5 * terms["distillation"] + 10 * terms["attention"] + terms["guidance"]
    torch.testing.assert_close(losses.total, total)
    with pytest.raises(InputError, match="regions"):
        objective(images, labels, progress=0.5)


@pytest.mark.parametrize("kind", GUIDED)
def test_copies_layouts_and_half_precision(kind) -> None:
    gates = {"attention": "cbam"} if kind == "gate" else {}
    model = network(**gates).float()
    objective = transfer.Objective(model, None, guidance=1.0, guidance_maps=kind, image_size=16)
    images, labels, regions = (value.float() if value.is_floating_point() else value for value in batch())
    plain = copy.deepcopy(objective)(images, labels, regions=regions).terms["guidance"]
    assert torch.equal(plain, objective(images, labels, regions=regions).terms["guidance"])
    other = copy.deepcopy(objective).to(memory_format=torch.channels_last)
    last = other(images.to(memory_format=torch.channels_last), labels, regions=regions)
    torch.testing.assert_close(last.terms["guidance"], plain, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        half = objective(images, labels, regions=regions)
    assert half.terms["guidance"].dtype == torch.float32
    torch.testing.assert_close(half.terms["guidance"], plain, rtol=0.1, atol=0.02)
    half.total.backward()


@pytest.mark.parametrize(
    "options",
    [
        {"guidance_form": "energie"},
        {"guidance_maps": "camm"},
        {"guidance_maps": "gradcam", "guidance_layers": ["group9"]},
        {"guidance_maps": "attention", "guidance_layers": []},
        {"guidance_maps": "attention", "guidance_layers": ["fc"]},
        {"guidance_layers": ["group2"]},
        {"guidance_maps": "attention", "guidance_detach": True},
        {"guidance_maps": "gate"},
        {"guidance": -1.0},
        {"guidance_maps": "gradcam", "compile": True},
        {"guidance_maps": "input_gradient", "compile": True},
    ],
    ids=str,
)
def test_wrong_guidance_options_fail_with_one_line(options) -> None:
    images, labels, regions = batch()
    with pytest.raises(InputError) as error:
        objective = transfer.Objective(network(), None, image_size=16, **{"guidance": 1.0, **options})
        objective(images, labels, regions=regions)
    assert "\n" not in str(error.value)


def test_networks_without_spatial_maps_or_linear_classifiers_fail() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    for kind in ("cam", "gradcam", "attention", "gate"):
        with pytest.raises(InputError):
            make_guide(flat, kind, size=(16, 16))
    normed = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 5))
    with pytest.raises(InputError, match="gradcam"):
        make_guide(normed, size=(16, 16))
    assert make_guide(normed, "gradcam", layers=["0"], size=(16, 16)).taps is not None
