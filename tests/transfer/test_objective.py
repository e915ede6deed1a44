"""The objective: its sum, several teachers, terms on gradients, full activations, compilation."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from regard import InputError, attention, maps, models, transfer


def networks(*names: str, **options) -> list[nn.Module]:
    torch.manual_seed(0)
    return [models.create(name, **options) for name in names]


def batch(size: int = 32, count: int = 4, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 3, size, size, dtype=dtype), torch.arange(count)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    result = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return result


@pytest.mark.parametrize("power", [1, 2, 4])
@pytest.mark.parametrize("form", ["code", "paper"])
def test_attention_term_agrees_with_the_plain_formula(power, form) -> None:
    student, teacher = (network.double() for network in networks("wrn-10-1", "wrn-10-2"))
    images, labels = batch(dtype=torch.float64)
    losses = transfer.Objective(student, teacher, beta=100, power=power, form=form)(images, labels)
    losses.total.backward()
    actual = gradients(student)
    names = ["group0", "group1", "group2"]
    with maps.Taps(student, names) as student_taps, maps.Taps(teacher, names) as teacher_taps:
        with torch.no_grad():
            teacher(images)
        logits = student(images)
        total = F.cross_entropy(logits, labels)
        for name in names:
            s, t = (
                F.normalize(x.features[name].abs().pow(power).mean(1).flatten(1)) for x in (student_taps, teacher_taps)
            )
            distance = (s - t).square().sum(1)
            total = total + (100 * distance.mean() / s.shape[1] if form == "code" else 50 * distance.sqrt().mean())
    torch.testing.assert_close(losses.total, total)
    total.backward()
    expected = gradients(student)
    assert actual.keys() == expected.keys()
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name])


def test_attention_saves_no_tensors_of_feature_size() -> None:
    student, teacher = networks("wrn-10-1", "wrn-10-2")
    images, labels = batch()

    def saved_sizes(beta: float) -> dict[int, int]:
        storages: dict[int, int] = {}

        def save(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            losses = transfer.Objective(student, teacher, beta=beta, alpha=0.5)(images, labels)
            del losses
        return storages

    without, with_attention = saved_sizes(0), saved_sizes(1e3)
    difference = sum(with_attention.values()) - sum(without.values())
    map_bytes = 4 * len(images) * (32**2 + 16**2 + 8**2)
    assert 0 < difference <= 8 * map_bytes  # some maps (N, H, W) and what is saved to normalise them
    assert max(with_attention.values()) == max(without.values())
    assert len([size for size in with_attention.values() if size > map_bytes]) == len(
        [size for size in without.values() if size > map_bytes]
    )


def test_terms_are_weighted_by_their_schedules() -> None:
    student, teacher = networks("wrn-10-1", "wrn-10-2")
    images, labels = batch()
    objective = transfer.Objective(
        student,
        teacher,
        beta=transfer.Weight(100, 0),
        alpha=transfer.Weight(0.8, 0.4),
        full_activation=2.0,
        gradient=0.3,
        symmetry=0.2,
        input_gradient=0.1,
        image_size=32,
    )
    losses = objective(images, labels, progress=0.5)
    expected = (
        (1 - 0.6) * losses.terms["task"]
        + 0.6 * losses.terms["distillation"]
        + 50 * sum(losses.pairs["attention"])
        + 2 * sum(losses.pairs["full_activation"])
        + 0.3 * losses.terms["gradient"]
        + 0.2 * losses.terms["symmetry"]
        + 0.1 * losses.terms["input_gradient"]
    )
    torch.testing.assert_close(losses.total, expected)
    with torch.no_grad():
        without_graph = objective(images, labels, progress=0.5)
    assert not without_graph.total.requires_grad
    torch.testing.assert_close(without_graph.terms, losses.terms)
    losses.total.backward()
    assert all(p.grad is not None for p in objective.parameters())
    assert len(list(objective.regressors.parameters())) == 6  # three convolutions, weight and bias
    final = objective(images, labels, progress=1.0)
    assert "attention" not in final.pairs and "distillation" in final.terms


def test_transforms_of_torch_func_differentiate_the_total() -> None:
    objective = transfer.Objective(*networks("wrn-10-1", "wrn-10-2"), alpha=0.5).eval()
    images, labels = batch()
    parameters = {name: p.detach() for name, p in objective.named_parameters()}
    actual = torch.func.grad(lambda p: torch.func.functional_call(objective, p, (images, labels)).total)(parameters)
    objective(images, labels).total.backward()
    torch.testing.assert_close(actual, gradients(objective))


def test_parameters_are_those_of_student_and_regressors() -> None:
    student, teacher = networks("wrn-10-1", "wrn-10-2")
    weights = {"beta": 100, "full_activation": 0.1, "image_size": 32}
    fast = transfer.Teacher(
        teacher, fold=True, mean=(0, 0, 0), std=(2, 2, 2), images_mean=(1, 1, 1), images_std=(1, 1, 1)
    )
    objective = transfer.Objective(student, [teacher, fast], **weights)
    expected = [*student.parameters(), *objective.regressors.parameters()]
    assert {id(p) for p in objective.parameters()} == {id(p) for p in expected}
    other = transfer.Objective(models.create("wrn-10-1"), [teacher, fast], **weights)
    other.load_state_dict(objective.state_dict())
    images, labels = batch()
    torch.testing.assert_close(other(images, labels).total, objective(images, labels).total)
    objective.train()
    assert student.training and not teacher.training
    single = objective(images, labels).total
    objective.double()  # also converts the teachers, and the folded copy
    losses = objective(images.double(), labels)
    assert losses.total.dtype == torch.float64 and next(teacher.parameters()).dtype == torch.float64
    torch.testing.assert_close(losses.total.float(), single, rtol=1e-4, atol=1e-4)
    assert objective.to("meta").teachers[0].device.type == "meta"


def test_terms_with_zero_weight_are_not_computed() -> None:
    student, teacher = networks("wrn-10-1", "wrn-10-2")
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    beta = {"start": 1.0, "shape": "step", "milestones": [0.5], "factor": 0.0}
    objective = transfer.Objective(student, teacher, beta=transfer.as_weight(beta), image_size=32)
    calls.clear()
    assert len(objective(*batch(), progress=0.4).pairs["attention"]) == 3 and len(calls) == 1
    losses = objective(*batch(), progress=0.6)
    assert not losses.pairs and len(calls) == 1 and losses.total == losses.terms["task"]
    without_teacher = transfer.Objective(student, None)(*batch())
    assert list(without_teacher.terms) == ["task"] and not without_teacher.pairs


def test_several_teachers_are_averaged() -> None:
    student, first, second = (n.double() for n in networks("wrn-10-1", "wrn-10-2", "wrn-16-1"))
    images, labels = batch(dtype=torch.float64)
    settings = {"beta": 100, "alpha": 0.5, "gradient": 0.1}
    single = [transfer.Objective(student, teacher, **settings)(images, labels) for teacher in (first, second)]
    combined = transfer.Objective(student, [first, transfer.Teacher(second)], **settings)(images, labels)
    torch.testing.assert_close(
        combined.terms["distillation"], (single[0].terms["distillation"] + single[1].terms["distillation"]) / 2
    )
    torch.testing.assert_close(
        combined.terms["gradient"], (single[0].terms["gradient"] + single[1].terms["gradient"]) / 2
    )
    assert len(combined.pairs["attention"]) == 6
    torch.testing.assert_close(
        sum(combined.pairs["attention"]), sum(sum(losses.pairs["attention"]) for losses in single) / 2
    )
    torch.testing.assert_close(combined.total, (single[0].total + single[1].total) / 2)
    # The gradient equals the gradient of the loss to the mean of the soft labels.
    combined.terms["distillation"].backward()
    actual = gradients(student)
    logits = student(images)
    with torch.no_grad():
        soft = sum(F.softmax(teacher(images) / 4, 1) for teacher in (first, second)) / 2
    (16 * F.kl_div(F.log_softmax(logits / 4, 1), soft, reduction="batchmean")).backward()
    expected = gradients(student)
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "teacher", "size"),
    [
        ("mobilenetv3_small_100", "resnet50", 64),
        ("efficientnet_b0", "resnet18", 64),
        ("resnet18", "vit_tiny_patch16_224", 224),
        ("resnet18", "swin_tiny_patch4_window7_224", 224),
        ("vit_tiny_patch16_224", "resnet18", 224),
        ("wrn-10-1", "resnet18", 32),
    ],
)
def test_pairs_of_architectures_train(student, teacher, size) -> None:
    torch.manual_seed(0)
    network = models.create(student, 10)
    objective = transfer.Objective(network, timm.create_model(teacher), beta=1e3, image_size=size)
    losses = objective(*batch(size, 2))
    losses.total.backward()
    assert len(losses.pairs["attention"]) == len(objective.pairs) >= 3
    assert all(loss.isfinite() and loss > 0 for loss in losses.pairs["attention"])
    before = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(before) > 10 and all(grad.isfinite().all() for grad in before)


def test_teachers_with_another_image_size() -> None:
    """The maps of a teacher on enlarged images are pooled to the size of the student's."""
    student, teacher = networks("wrn-10-1", "wrn-10-2")
    images, labels = batch()
    larger = transfer.Teacher(teacher, size=64)
    losses = transfer.Objective(student, larger, beta=1e3)(images, labels)
    with maps.MapTaps(teacher) as teacher_taps, torch.no_grad():
        teacher(larger.images(images))
    with maps.MapTaps(student) as student_taps:
        student(images)
    expected = transfer.map_loss(student_taps.maps["group0"], F.adaptive_avg_pool2d(teacher_taps.maps["group0"], 32))
    torch.testing.assert_close(losses.pairs["attention"][0], expected)


@pytest.mark.parametrize(
    ("name", "gate"), [("se", attention.SubAttention(1)), ("shuffle", "sigmoid"), ("cbam", "sigmoid")]
)
@pytest.mark.parametrize("gradient", [0.0, 1.0])
def test_attention_modules_in_student_or_teacher(name, gate, gradient) -> None:
    options = {"groups": 4} if name == "shuffle" else {}
    plain, with_attention = networks("wrn-10-1")[0], networks("wrn-10-1")[0]
    attention.attach(with_attention, name, gate=gate, **options)
    images, labels = batch()
    for student, teacher in ((with_attention, plain), (plain, with_attention)):
        folded = transfer.Teacher(teacher, fold=True, precision="auto")
        losses = transfer.Objective(student, folded, beta=100, alpha=0.5, gradient=gradient)(images, labels)
        losses.total.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())
        assert sum(p.grad is not None for p in student.parameters()) == len(list(student.parameters()))


def test_gradient_terms_agree_with_numeric_differences() -> None:
    """The gradients of parameters against numeric differences of the whole objective."""
    student, teacher = (network.double() for network in networks("wrn-10-1", "wrn-10-1"))
    with torch.no_grad():
        teacher.fc.weight.mul_(2)
    images, labels = batch(8, 2, torch.float64)
    student.eval()  # so that the statistics do not change between evaluations
    objective = transfer.Objective(student, teacher, beta=0, gradient=1.0, symmetry=0.5, input_gradient=0.25)
    objective(images, labels).total.backward()
    grads = gradients(student)
    for name in ("conv0.weight", "group1.block0.bn0.weight", "group2.block0.conv1.weight", "fc.weight"):
        parameter = student.get_parameter(name)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.view(-1)[3] += step
            values.append(objective(images, labels).total.item())
            with torch.no_grad():
                parameter.view(-1)[3] -= step
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(grads[name].view(-1)[3].item(), rel=1e-4, abs=1e-8), name


@pytest.mark.slow
def test_compiled_objectives_give_equal_results(monkeypatch) -> None:
    # Traces and differentiates as usual, but generates no kernels, which would take minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    student, teacher = (network.double() for network in networks("wrn-10-1", "wrn-10-2"))
    images, labels = batch(dtype=torch.float64)
    plain = transfer.Objective(student, teacher, beta=1e3, alpha=0.5, full_activation=0.1, image_size=32)
    plain(images, labels).total.backward()
    expected, regressed = gradients(student), [p.grad.clone() for p in plain.regressors.parameters()]
    compiled = transfer.Objective(
        student,
        transfer.Teacher(teacher, compile=True),
        beta=1e3,
        alpha=0.5,
        full_activation=0.1,
        image_size=32,
        compile=True,
    )
    compiled.regressors.load_state_dict(plain.regressors.state_dict())
    for _ in range(2):  # the second call runs what the first compiled
        losses = compiled(images, labels)
        losses.total.backward()
        actual = gradients(student)
        for name in expected:
            torch.testing.assert_close(actual[name], expected[name])
        for parameter, grad in zip(compiled.regressors.parameters(), regressed, strict=True):
            torch.testing.assert_close(parameter.grad, grad)
            parameter.grad = None
    # Objectives of the same networks with different taps do not share compiled code, in any order.
    settings = {"image_size": 32, "compile": True}
    distillation_only, single_pair = (
        transfer.Objective(student, transfer.Teacher(teacher, compile=True), alpha=0.5, **settings, **other)
        for other in ({"beta": 0}, {"layers": [0]})
    )
    torch.testing.assert_close(distillation_only(images, labels).terms["distillation"], losses.terms["distillation"])
    torch.testing.assert_close(single_pair(images, labels).pairs["attention"][0], losses.pairs["attention"][0])
    for objective, terms in ((distillation_only, 0), (compiled, 3), (distillation_only, 0), (single_pair, 1)):
        assert len(objective(images, labels).pairs.get("attention", ())) == terms
    with pytest.raises(InputError, match="double backward"):
        transfer.Objective(student, teacher, gradient=1.0, compile=True)


class Rectified(nn.Module):
    """A network that changes the output of its stage in place."""

    stage_names = ("conv",)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(self.act(self.conv(x)).mean((2, 3)))


def test_wrong_input_fails_with_one_line() -> None:
    student, teacher = networks("wrn-10-1", "wrn-10-2")
    other = models.create("wrn-10-1", 100)
    on_meta = models.create("wrn-10-1").to("meta")
    images, labels = batch()
    for make, message in (
        (lambda: transfer.Objective(student, other, alpha=0.5, image_size=32), "10 logits and the teacher 100"),
        (lambda: transfer.Objective(student, other, gradient=1, image_size=32), "10 classes and the teacher 100"),
        (lambda: transfer.Objective(student, on_meta), "on cpu and a teacher on meta"),
        (lambda: transfer.Objective(student, []), "list of teachers is empty"),
        (lambda: transfer.Objective(student, None, gradient=1), "needs a teacher"),
        (lambda: transfer.Objective(student, "wrn-10-2"), "not 'wrn-10-2'"),
        (lambda: transfer.Objective(student, teacher, temperature=math.nan), "temperature is nan"),
        (lambda: transfer.Objective(student, teacher, layers=[1.5], image_size=32), "layers contain 1.5"),
        (lambda: transfer.Objective(student, teacher, layers=3, image_size=32), "layers are 3"),
        (lambda: transfer.Objective(student, teacher, image_size=-4), "is (-4, -4)"),
        (lambda: transfer.Objective(student, teacher)(images[0], labels), "expected (N, 3, H, W)"),
        (lambda: transfer.Objective(student, teacher, power=0.5), "[1, inf)"),
        (lambda: transfer.Objective(student, teacher, power=math.inf), "[1, inf)"),
        (lambda: transfer.Objective(student, teacher, reduce="min"), "known: max, mean, sum"),
        (lambda: transfer.Objective(student, teacher, layers=["conv9"], image_size=32), "group0, group1, group2"),
        (lambda: transfer.Objective(student, teacher, layers=["fc"], image_size=32), "gives a tensor of shape (1, 10)"),
        (lambda: transfer.Objective(student, teacher, image_size=4), "no spatial extent"),
        (lambda: transfer.Objective(student, teacher).pairs, "give image_size="),
        (lambda: transfer.Objective(student, teacher, full_activation=1), "give image_size"),
        (lambda: transfer.Objective(Rectified(), Rectified())(images, labels), "in place"),
    ):
        with pytest.raises(InputError) as error:
            make()
        assert message in str(error.value) and "\n" not in str(error.value), str(error.value)
    assert transfer.Objective(student, other, image_size=32)(images, labels).pairs["attention"]  # attention alone works


TASKS = {
    "cross entropy": {"beta": 10},
    "binary cross entropy": {"beta": 10, "task": "binary_cross_entropy"},
    "gradient": {"beta": 0, "gradient": 0.1},
}


@pytest.mark.parametrize("task", TASKS)
def test_labels_may_have_any_integer_dtype(task) -> None:
    student, teacher = (network.eval() for network in networks("wrn-10-0.5", "wrn-10-1"))
    images, labels = batch()
    objective = transfer.Objective(student, teacher, **TASKS[task])
    expected = objective(images, labels).total
    for dtype in (torch.int32, torch.int16, torch.uint8):
        assert torch.equal(objective(images, labels.to(dtype)).total, expected)
    with torch.no_grad():
        logits, teacher_logits = student(images), teacher(images)
    loss = transfer.distillation_loss(logits, teacher_logits, labels)
    assert torch.equal(transfer.distillation_loss(logits, teacher_logits, labels.int()), loss)


WRONG_LABELS = {
    "one too many": (torch.tensor([0, 1, 2, 10]), "run from 0 to 10; expected 0 to 9"),
    "negative": (torch.tensor([0, -1, 2, 3], dtype=torch.int32), "run from -1 to 3"),
    "ignored by torch": (torch.tensor([0, -100, 2, 3]), "run from -100 to 3"),
    "no whole numbers": (torch.tensor([0.0, 1, 2, 3]), r"float32 \(4,\); expected integers \(4,\)"),
    "yes and no": (torch.tensor([True, False, True, True]), r"bool \(4,\)"),
    "too few": (torch.tensor([0, 1]), r"int64 \(2,\)"),
    "a column": (torch.tensor([[0], [1], [2], [3]]), r"int64 \(4, 1\)"),
    "shares of other classes": (torch.full((4, 9), 1 / 9), r"float32 \(4, 9\)"),
}


@pytest.mark.parametrize("case", WRONG_LABELS)
def test_wrong_labels_fail_with_one_line(case) -> None:
    student, teacher = networks("wrn-10-0.5", "wrn-10-1")
    images, _ = batch()
    labels, message = WRONG_LABELS[case]
    for options in TASKS.values():
        with pytest.raises(InputError, match=message) as error:
            transfer.Objective(student, teacher, **options)(images, labels)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=message):
        transfer.distillation_loss(student(images), teacher(images), labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_teachers_in_another_precision_give_similar_losses(dtype) -> None:
    student, teacher = networks("wrn-10-0.5", "wrn-10-1")
    images, labels = batch()
    weights = {"beta": 10, "alpha": 0.5, "full_activation": 0.1, "gradient": 0.1}
    torch.manual_seed(2)
    exact = transfer.Objective(student, teacher, **weights, image_size=32)
    other = transfer.Objective(student, copy.deepcopy(teacher).to(dtype), **weights, image_size=32)
    other.regressors.load_state_dict(exact.regressors.state_dict())
    actual, expected = other(images, labels), exact(images, labels)
    for name in ("task", "distillation", "gradient"):
        torch.testing.assert_close(actual.terms[name].float(), expected.terms[name], rtol=0.05, atol=1e-3, msg=name)
    torch.testing.assert_close(actual.total.float(), expected.total, rtol=0.05, atol=1e-3)
    torch.testing.assert_close(
        torch.stack(actual.pairs["attention"]).float(), torch.stack(expected.pairs["attention"]), rtol=0.05, atol=1e-6
    )
    actual.total.backward()
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)
