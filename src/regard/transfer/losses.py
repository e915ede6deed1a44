"""The losses of transfer, each a function of what two networks computed."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor
from torch.nn import functional as F

from regard.errors import InputError, unknown
from regard.maps import activation_map

Form = Literal["code", "paper"]


def attention_loss(student_features: Tensor, teacher_features: Tensor, power: float = 2, form: Form = "code") -> Tensor:
    """How far the student's attention map is from the teacher's (Attention Transfer, arXiv 1612.03928, equation 2).

    Both maps are `mean_c |A|^power`, flattened and divided by their norm: `q` (N, HW). Then

    - form 'code', of the published code: `mean over N and HW of (q_s - q_t)^2`;
    - form 'paper': `mean over N of |q_s - q_t|_2`.

    The paper multiplies its form by beta / 2, the code multiplies its own by beta: `transfer.Objective` does the same.

    Args:
        student_features: (N, C, H, W).
        teacher_features: (N, C', H', W'); where the sizes differ, both maps are average-pooled to the smaller.
        power: p > 0.
        form: 'code' or 'paper'.

    Returns:
        A scalar, differentiable in both.

    Raises:
        InputError: features that are not (N, C, H, W), batches of different size, or an unknown form.
    """
    for whose, features in (("student", student_features), ("teacher", teacher_features)):
        if features.ndim != 4:
            raise InputError(f"the {whose}'s features are {tuple(features.shape)}; attention needs (N, C, H, W)")
    if len(student_features) != len(teacher_features):
        raise InputError(f"{len(student_features)} images of the student and {len(teacher_features)} of the teacher")
    student_map = activation_map(student_features, power)  # (N, H, W)
    teacher_map = activation_map(teacher_features, power)
    if student_map.shape != teacher_map.shape:
        (h, w), (other_h, other_w) = student_map.shape[1:], teacher_map.shape[1:]
        size = (min(h, other_h), min(w, other_w))
        student_map, teacher_map = F.adaptive_avg_pool2d(student_map, size), F.adaptive_avg_pool2d(teacher_map, size)
    difference = F.normalize(student_map.flatten(1)) - F.normalize(teacher_map.flatten(1))
    if form == "code":
        return difference.square().mean()
    if form == "paper":
        return difference.norm(dim=1).mean()
    raise unknown("form of the attention loss", form, get_args(Form))


def soft_label_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4) -> Tensor:
    """How far the student's softened prediction is from the teacher's (Hinton et al., arXiv 1503.02531).

    `T^2 KL(softmax(teacher / T) || softmax(student / T))`, averaged over the batch.

    Args:
        student_logits, teacher_logits: (N, K).
        temperature: T > 0.

    Raises:
        InputError: the two have different shapes, or the temperature is not positive.
    """
    if student_logits.shape != teacher_logits.shape:
        raise InputError(
            f"distillation needs the same classes on both sides; the student has {student_logits.shape[-1]} logits and "
            f"the teacher {teacher_logits.shape[-1]} (alpha = 0 transfers attention alone)"
        )
    if temperature <= 0:
        raise InputError(f"the temperature of distillation is positive, not {temperature}")
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 4, alpha: float = 0.9
) -> Tensor:
    """Knowledge distillation: `alpha * soft_label_loss + (1 - alpha) * cross entropy`.

    Args:
        student_logits, teacher_logits: (N, K).
        labels: (N,), int64 in [0, K).
        temperature: T > 0.
        alpha: in [0, 1].

    Raises:
        InputError: the two have different shapes, or the temperature is not positive.
    """
    soft = soft_label_loss(student_logits, teacher_logits, temperature)
    return alpha * soft + (1 - alpha) * F.cross_entropy(student_logits, labels)
