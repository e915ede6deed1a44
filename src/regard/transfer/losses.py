"""The losses of a student: formulas, and the terms of an objective that use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import InputError, check_interval, unknown
from regard.logits import checked_labels, class_logits, logits_of
from regard.maps import activation_map
from regard.maps.method import promote
from regard.maps.taps import Reduce
from regard.modes import match_dtype
from regard.transfer.guidance import image_losses
from regard.transfer.terms import Form, ForwardPass, FullActivationForm, Task, input_gradients, term


def task_loss(logits: Tensor, labels: Tensor, task: Task = "cross_entropy", label_smoothing: float = 0.0) -> Tensor:
    """The loss to the labels; for a single output, both tasks are its binary cross entropy.

    Args:
        logits: (N, K), or (N, 1) of a binary network.
        labels: see `checked_labels`.
        task: 'cross_entropy', or 'binary_cross_entropy', the mean over images and classes.
        label_smoothing: in [0, 1).

    Raises:
        InputError: see `checked_labels`.
    """
    labels = checked_labels(labels, logits)
    if task == "cross_entropy" or logits.shape[1] == 1:
        return F.cross_entropy(class_logits(logits), labels, label_smoothing=label_smoothing)
    classes = logits.shape[1]
    targets = F.one_hot(labels, classes).to(logits.dtype) if labels.ndim == 1 else labels
    targets = targets * (1 - label_smoothing) + label_smoothing / classes
    return F.binary_cross_entropy_with_logits(logits, targets)


def attention_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    power: float = 2,
    form: Form = "code",
    *,
    reduce: Reduce = "mean",
) -> Tensor:
    """The distance between two attention maps (Attention Transfer, arXiv 1612.03928, equation 2).

    Both maps are `mean_c |A|^power` (the paper's F_sum^p) or `max_c |A|^power` (F_max^p), flattened and divided by
    their norm: `q` (N, HW); mean and sum are then equal. With `d` the distance `|q_s - q_t|_2` of an image:

    - form 'code', as in the published code: `mean over N and HW of (q_s - q_t)^2`, which is `mean over N of d^2 / HW`;
    - form 'paper': `mean over N of d`.

    The paper weights its form by beta / 2, the code by beta; `transfer.Objective` does the same. See `equivalent_beta`
    for the factor between them.

    Args:
        student_features: (N, C, H, W).
        teacher_features: (N, C', H', W'); if the sizes differ, both maps are average-pooled to the smaller.
        power: p, at least 1.
        form: 'code' or 'paper'.
        reduce: reduction over the channels, 'mean', 'sum' or 'max'.

    Returns:
        A scalar, differentiable by both features.

    Raises:
        InputError: features that are not (N, C, H, W) or have one pixel, different batch sizes, an unknown form or
            `reduce`.
    """
    for network, features in (("student", student_features), ("teacher", teacher_features)):
        if features.ndim != 4:
            raise InputError(f"the {network}'s features are {tuple(features.shape)}; attention needs (N, C, H, W)")
        if features.shape[2] * features.shape[3] < 2:
            raise InputError(
                f"the {network}'s features are {tuple(features.shape)}, a single pixel, whose normalised attention map "
                "is always 1; use a layer before the pooling"
            )
    if len(student_features) != len(teacher_features):
        raise InputError(
            f"the student has features of {len(student_features)} images, the teacher of {len(teacher_features)}; "
            "expected the same images"
        )
    return map_loss(
        activation_map(student_features, power, reduce), activation_map(teacher_features, power, reduce), form
    )


def map_loss(student_map: Tensor, teacher_map: Tensor, form: Form = "code") -> Tensor:
    """The attention loss of two attention maps of any scale, (N, H, W) and (N, H', W'); see `attention_loss`.

    Raises:
        InputError: an unknown form.
    """
    student_map, teacher_map = _pool_to_smaller(student_map, teacher_map)
    difference = F.normalize(student_map.flatten(1)) - F.normalize(teacher_map.flatten(1))
    if form == "code":
        return difference.square().mean()
    if form == "paper":
        return difference.norm(dim=1).mean()
    raise unknown("form of the attention loss", form, get_args(Form))


def equivalent_beta(beta: float, pixels: int, distance: float, to: Form = "paper") -> float:
    """The beta of one form with the same gradient length as `beta` of the other form, at a given distance of the maps.

    Per image, the code's term is `beta d^2 / HW` and the paper's `beta / 2 d`, with derivatives `2 beta d / HW` and
    `beta / 2`: `beta_paper = 4 d / HW beta_code`. The factor depends on `d`, because the gradient of the code's form
    vanishes as the maps approach each other and the paper's does not. (The paper gives its beta as "about 0.1, 10^3
    divided by the number of elements of the map and the batch size". This is the code's form as a sum over images and
    pixels: its `beta = 1e3` divided by `N HW`, 0.12 for 128 images and maps of 8 x 8.)

    Args:
        beta: beta of the other form.
        pixels: HW of the maps.
        distance: `d = |q_s - q_t|_2` of the normalised maps, in (0, 2]; `sqrt(loss * HW)` for a loss of form 'code'.
        to: form of the returned beta.

    Raises:
        InputError: pixels or distance out of range, an unknown form.
    """
    if pixels < 2 or not 0 < distance <= 2:
        raise InputError(
            f"maps of {pixels} pixels at distance {distance}; expected at least 2 pixels and a distance in (0, 2]"
        )
    factor = 4 * distance / pixels
    if to == "paper":
        return beta * factor
    if to == "code":
        return beta / factor
    raise unknown("form of the attention loss", to, get_args(Form))


def soft_label_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4) -> Tensor:
    """`T^2 KL(softmax(teacher / T) || softmax(student / T))`, averaged over the batch (Hinton et al., 1503.02531).

    Args:
        student_logits, teacher_logits: (N, K), or (N, 1) of a binary network.
        temperature: T > 0.

    Raises:
        InputError: the two have different shapes, or the temperature is not positive.
    """
    student_logits, teacher_logits = class_logits(student_logits), class_logits(teacher_logits)
    check_classes(student_logits.shape[-1], teacher_logits.shape[-1])
    if student_logits.shape != teacher_logits.shape:
        shapes = f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        raise InputError(f"logits are {shapes}; expected the same shape")
    check_interval("temperature", temperature, "(0, inf)")
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def check_classes(student: int, teacher: int) -> None:
    """Raises InputError unless both networks have the same number of classes."""
    if student != teacher:
        raise InputError(
            f"distillation needs the same classes in both networks; the student has {student} logits and the teacher "
            f"{teacher} (alpha = 0 transfers attention only)"
        )


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 4, alpha: float = 0.9
) -> Tensor:
    """Knowledge distillation: `alpha * soft_label_loss + (1 - alpha) * cross entropy`.

    Args:
        student_logits, teacher_logits: (N, K), or (N, 1) of a binary network.
        labels: (N,), whole numbers in [0, K).
        temperature: T > 0.
        alpha: in [0, 1].

    Raises:
        InputError: the two have different shapes, the temperature is not positive, or see `checked_labels`.
    """
    soft = soft_label_loss(student_logits, teacher_logits, temperature)
    return alpha * soft + (1 - alpha) * task_loss(student_logits, labels)


def full_activation_loss(
    student_features: Tensor, teacher_features: Tensor, regressor: nn.Module, form: FullActivationForm = "fitnets"
) -> Tensor:
    """The distance between the student's features, mapped by `regressor`, and the teacher's features.

    - form 'fitnets' (arXiv 1412.6550): the mean over images, channels and pixels of the squared difference;
    - form 'paper' (Attention Transfer, arXiv 1612.03928, section 4.1.2): the features of each image are flattened and
      divided by their norm; the mean over the images of the squared distance, in [0, 4].

    Args:
        student_features: (N, C, H, W).
        teacher_features: (N, C', H', W'); if the sizes differ, both are average-pooled to the smaller.
        regressor: maps (N, C, h, w) to (N, C', h, w); see `make_regressor`.
        form: 'fitnets' or 'paper'.

    Returns:
        A scalar in the dtype of the student's features.

    Raises:
        InputError: features that are not (N, C, H, W), an output of `regressor` of another shape, an unknown form.
    """
    if student_features.ndim != 4 or teacher_features.ndim != 4:
        shapes = f"{tuple(student_features.shape)} and {tuple(teacher_features.shape)}"
        raise InputError(f"features are {shapes}; full-activation transfer needs (N, C, H, W)")
    student_features, teacher_features = _pool_to_smaller(student_features, teacher_features)
    student = regressor(student_features)
    teacher = teacher_features.to(student.dtype)
    if student.shape != teacher.shape:
        raise InputError(
            f"the regressor gives {tuple(student.shape)}; expected the teacher's shape {tuple(teacher.shape)}"
        )
    if form == "fitnets":
        return F.mse_loss(student, teacher)
    if form == "paper":
        difference = F.normalize(student.flatten(1)) - F.normalize(teacher.flatten(1))
        return difference.square().sum(1).mean()
    raise unknown("form of the full-activation loss", form, get_args(FullActivationForm))


def make_regressor(student_channels: int, teacher_channels: int, form: FullActivationForm = "fitnets") -> nn.Module:
    """The 1 x 1 convolution from the student's channels to the teacher's, learned with the student.

    For form 'paper' and equal numbers of channels, it is the identity.
    """
    if form == "paper" and student_channels == teacher_channels:
        return nn.Identity()
    return nn.Conv2d(student_channels, teacher_channels, 1)


def gradient_loss(student_gradients: Tensor, teacher_gradients: Tensor) -> Tensor:
    """Gradient-based transfer: the mean over the images of `|J_s - J_t|^2` (equation 5, squared).

    The paper uses norms, weighted by beta / 2. This loss and the two below are squared norms, whose derivatives also
    exist where student and teacher agree, and their weights are not halved.

    Args:
        student_gradients, teacher_gradients: (N, 3, H, W), by the same images.
    """
    return squared_length(student_gradients - teacher_gradients)


def symmetry_loss(gradients: Tensor, gradients_of_mirrored: Tensor) -> Tensor:
    """The distance of gradients to those of the mirrored image: `|J(x) - flip(J(flip(x)))|^2` (equation 6, squared).

    Args:
        gradients: (N, 3, H, W), by the images.
        gradients_of_mirrored: (N, 3, H, W), by the images mirrored left to right.
    """
    return squared_length(gradients - gradients_of_mirrored.flip(3))


def squared_length(gradients: Tensor) -> Tensor:
    """The mean over the images of `|J|^2`; for the student's own gradients, this is the min-l2 penalty.

    Args:
        gradients: (N, 3, H, W).

    Returns:
        A scalar, at least float32.
    """
    return promote(gradients).square().sum((1, 2, 3)).mean()


def _pool_to_smaller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Tensors (…, H, W), average-pooled to the smaller height and the smaller width if their sizes differ."""
    if a.shape[-2:] == b.shape[-2:]:
        return a, b
    size = min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1])
    return F.adaptive_avg_pool2d(a, size), F.adaptive_avg_pool2d(b, size)


@term("alpha", teacher=True)
def distillation(step: ForwardPass) -> Tensor:
    """The mean soft-label loss over the teachers."""
    logits = step.outputs.logits
    return _mean([soft_label_loss(logits, teacher.logits, step.temperature) for teacher in step.teachers])


@term("beta", teacher=True)
def attention(step: ForwardPass) -> tuple[Tensor, ...]:
    """The attention loss of each pair of layers, divided by the number of teachers."""
    return tuple(
        map_loss(step.outputs.maps[pair.student], teacher.maps[pair.teacher], step.form) / len(step.teachers)
        for teacher in step.teachers
        for pair in teacher.pairs
    )


@term(teacher=True)
def full_activation(step: ForwardPass) -> tuple[Tensor, ...]:
    """The full-activation loss of each pair of layers, divided by the number of teachers."""
    return tuple(
        full_activation_loss(
            step.outputs.features[pair.student], teacher.features[pair.teacher], regressor, step.full_activation_form
        )
        / len(step.teachers)
        for teacher in step.teachers
        for pair, regressor in zip(teacher.pairs, teacher.regressors, strict=True)
    )


@term(teacher=True, derives=True)
def gradient(step: ForwardPass) -> Tensor:
    """The mean squared distance between the input gradients of student and teacher, over the teachers."""
    gradients = [teacher.gradients for teacher in step.teachers if teacher.gradients is not None]
    return _mean([gradient_loss(step.input_gradients, gradient) for gradient in gradients])


@term(derives=True)
def symmetry(step: ForwardPass) -> Tensor:
    """The squared distance between the student's input gradients for images and for mirrored images."""
    mirrored = step.images.detach().flip(3).requires_grad_()
    logits = logits_of(step.student(match_dtype(step.student, mirrored)))
    return symmetry_loss(step.input_gradients, input_gradients(logits, step.labels, mirrored))


@term(derives=True)
def input_gradient(step: ForwardPass) -> Tensor:
    """The squared length of the student's input gradients."""
    return squared_length(step.input_gradients)


@term()
def guidance(step: ForwardPass) -> tuple[Tensor, ...]:
    """The guidance loss of the maps of each layer, divided by the number of layers."""
    assert step.guide is not None and step.regions is not None  # checked by the objective
    maps = step.guide.maps(step.outputs.logits, step.labels, step.images)
    losses = []
    for layer_maps in maps.values():
        by_image, guided = image_losses(layer_maps, step.regions, step.guidance_form)
        share = guided.float().mean().clamp(min=1 / max(len(guided), 1)) if step.guided is None else step.guided
        losses.append(by_image.mean() / share / len(maps))
    return tuple(losses)


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return sum(losses[1:], start=losses[0]) / len(losses)
