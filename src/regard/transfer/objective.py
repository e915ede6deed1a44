"""What a student is trained for: its task, and what it takes over from a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import InputError, unknown
from regard.maps import Taps
from regard.stages import stages
from regard.transfer.losses import Form, attention_loss, soft_label_loss


class Losses(NamedTuple):
    """The terms of one step, scalars but for the logits; the terms are without their weights."""

    total: Tensor
    task: Tensor
    """Cross entropy with the labels."""
    attention: tuple[Tensor, ...]
    """The attention loss of each pair of taps; empty if beta is 0."""
    distillation: Tensor | None
    """The soft-label loss; None if alpha is 0."""
    logits: Tensor
    """The student's, (N, K)."""


class Objective:
    """`(1 - alpha) task + alpha distillation + beta sum(attention)`; with form 'paper', beta / 2 in place of beta.

    The teacher is put in evaluation mode and runs without gradients.

    Args:
        student: the network to train.
        teacher: the network to learn from; None trains for the task alone.
        beta: weight of the attention losses (the published code's 1e3).
        alpha: weight of distillation, in [0, 1].
        temperature: of distillation.
        layers: where attention is compared: names that both networks have, or pairs (student's, teacher's); None pairs
            their stages in order.
        power: p of the attention maps.
        form: of the attention loss, 'code' or 'paper'.
        label_smoothing: of the task, in [0, 1).

    Raises:
        InputError: layers that do not exist or do not pair, or weights out of range.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        beta: float = 1e3,
        alpha: float = 0.0,
        temperature: float = 4,
        layers: Sequence[str | tuple[str, str]] | None = None,
        *,
        power: float = 2,
        form: Form = "code",
        label_smoothing: float = 0.0,
    ) -> None:
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha, the weight of distillation, lies in [0, 1]; it is {alpha}")
        if beta < 0:
            raise InputError(f"beta, the weight of attention, is at least 0; it is {beta}")
        if temperature <= 0:
            raise InputError(f"the temperature of distillation is positive, not {temperature}")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label smoothing lies in [0, 1); it is {label_smoothing}")
        if form not in get_args(Form):
            raise unknown("form of the attention loss", form, get_args(Form))
        self.student = student
        self.teacher = teacher.eval() if teacher is not None else None
        self.beta = beta if form == "code" else beta / 2
        self.alpha = alpha if teacher is not None else 0.0
        self.temperature = temperature
        self.power = power
        self.form: Form = form
        self.label_smoothing = label_smoothing
        self.pairs = _pairs(student, teacher, layers) if teacher is not None and beta else []

    def __call__(self, images: Tensor, labels: Tensor) -> Losses:
        """The losses on a batch: images (N, 3, H, W), labels (N,) int64."""
        attention: tuple[Tensor, ...] = ()
        distillation = None
        if self.teacher is None or not (self.pairs or self.alpha):
            logits = self.student(images)
        else:
            with ExitStack() as taps:
                if self.pairs:
                    of_student = taps.enter_context(Taps(self.student, [student for student, _ in self.pairs]))
                    of_teacher = taps.enter_context(Taps(self.teacher, [teacher for _, teacher in self.pairs]))
                with torch.no_grad():
                    teacher_logits = self.teacher(images)
                logits = self.student(images)
                if self.pairs:
                    attention = tuple(
                        attention_loss(of_student.features[s], of_teacher.features[t], self.power, self.form)
                        for s, t in self.pairs
                    )
                if self.alpha:
                    distillation = soft_label_loss(logits, teacher_logits, self.temperature)
        task = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        total = task if distillation is None else (1 - self.alpha) * task + self.alpha * distillation
        for loss in attention:
            total = total + self.beta * loss
        return Losses(total, task, attention, distillation, logits)


def _pairs(
    student: nn.Module, teacher: nn.Module, layers: Sequence[str | tuple[str, str]] | None
) -> list[tuple[str, str]]:
    if layers is not None:
        return [(layer, layer) if isinstance(layer, str) else (layer[0], layer[1]) for layer in layers]
    of_student, of_teacher = list(stages(student)), list(stages(teacher))
    if len(of_student) != len(of_teacher):
        raise InputError(
            f"the student has {len(of_student)} stages ({', '.join(of_student)}) and the teacher {len(of_teacher)} "
            f"({', '.join(of_teacher)}); give layers as pairs (student's, teacher's)"
        )
    return list(zip(of_student, of_teacher, strict=True))
