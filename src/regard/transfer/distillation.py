"""Knowledge distillation (Hinton, Vinyals, Dean, arXiv 1503.02531)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from regard.errors import InputError
from regard.logits import class_logits
from regard.transfer.labels import checked_labels


def soft_label_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4) -> Tensor:
    """How far the student's softened prediction is from the teacher's.

    `T^2 KL(softmax(teacher / T) || softmax(student / T))`, averaged over the batch.

    Args:
        student_logits, teacher_logits: (N, K), or (N, 1) of a binary network.
        temperature: T > 0.

    Raises:
        InputError: the two have different shapes, or the temperature is not positive.
    """
    student_logits, teacher_logits = class_logits(student_logits), class_logits(teacher_logits)
    check_classes(student_logits.shape[-1], teacher_logits.shape[-1])
    if student_logits.shape != teacher_logits.shape:
        raise InputError(f"logits are {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}; expected alike")
    if temperature <= 0:
        raise InputError(f"the temperature of distillation is positive, not {temperature}")
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def check_classes(student: int, teacher: int) -> None:
    """Raises InputError unless both have as many classes."""
    if student != teacher:
        raise InputError(
            f"distillation needs the same classes on both sides; the student has {student} logits and the teacher "
            f"{teacher} (alpha = 0 transfers attention alone)"
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
    labels = checked_labels(labels, student_logits)
    return alpha * soft + (1 - alpha) * F.cross_entropy(class_logits(student_logits), labels)
