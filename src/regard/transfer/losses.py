"""The terms of a student's loss besides its task.

Each is a function of one `ForwardPass`, registered under its name together with the name of its weight, which is an
argument of `Objective` and a field of a recipe's `transfer`. A new term is such a function, and that field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor, nn

from regard.logits import logits_of
from regard.modes import of_its_dtype
from regard.transfer.activation import full_activation_loss
from regard.transfer.attention import Form, map_loss
from regard.transfer.distillation import soft_label_loss
from regard.transfer.gradient import gradient_loss, input_gradients, squared_length, symmetry_loss
from regard.transfer.pairing import Pair


class Outputs(NamedTuple):
    """What a network gives in a forward pass."""

    logits: Tensor
    """(N, K), or (N, 1) of a binary network."""
    maps: dict[str, Tensor]
    """Name of a layer -> attention maps (N, h, w)."""
    features: dict[str, Tensor]
    """Name of a layer -> features (N, C, h, w)."""
    gradients: Tensor | None = None
    """The gradients of the losses by the images, (N, 3, H, W)."""


class Taught(NamedTuple):
    """What is learned from one teacher in a step."""

    outputs: Outputs
    pairs: Sequence[Pair]
    regressors: Sequence[nn.Module]
    """One per pair, if features are compared."""


@dataclass
class ForwardPass:
    """What the terms of a step are computed from.

    Args:
        student: the network that is trained.
        images: (N, 3, H, W), which require a gradient if a term that is used `derives`.
        labels: (N,) or (N, K).
        outputs: the student's.
        teachers: what each teacher gives.
        form: of the attention loss.
        temperature: of distillation.
    """

    student: nn.Module
    images: Tensor
    labels: Tensor
    outputs: Outputs
    teachers: Sequence[Taught]
    form: Form
    temperature: float

    @cached_property
    def input_gradients(self) -> Tensor:
        """The gradients of the student's losses by the images, (N, 3, H, W)."""
        return input_gradients(self.outputs.logits, self.labels, self.images)


Loss = Callable[[ForwardPass], Tensor | tuple[Tensor, ...]]


class Term(NamedTuple):
    """A term of the loss.

    Attributes:
        loss: gives a scalar, or a scalar for each pair of layers.
        weight: the name of its weight.
        teacher: whether it compares with a teacher.
        derives: whether it needs gradients by the images.
    """

    loss: Loss
    weight: str
    teacher: bool
    derives: bool


TERMS: dict[str, Term] = {}
"""The terms by name, in the order in which they are added."""


def term(weight: str | None = None, *, teacher: bool = False, derives: bool = False) -> Callable[[Loss], Loss]:
    """Registers a term under the name of the function; see `Term`. Its weight has the same name if none is given."""

    def register(loss: Loss) -> Loss:
        name = loss.__name__
        TERMS[name] = Term(loss, weight or name, teacher, derives)
        return loss

    return register


@term("alpha", teacher=True)
def distillation(step: ForwardPass) -> Tensor:
    """The soft-label loss, the mean over the teachers."""
    return _mean([soft_label_loss(step.outputs.logits, one.outputs.logits, step.temperature) for one in step.teachers])


@term("beta", teacher=True)
def attention(step: ForwardPass) -> tuple[Tensor, ...]:
    """The attention loss of each pair of layers, divided by the number of teachers."""
    return _shared(
        [
            map_loss(step.outputs.maps[pair.student], one.outputs.maps[pair.teacher], step.form)
            for one in step.teachers
            for pair in one.pairs
        ],
        step.teachers,
    )


@term(teacher=True)
def full_activation(step: ForwardPass) -> tuple[Tensor, ...]:
    """The mean squared difference of the features of each pair of layers, divided by the number of teachers."""
    return _shared(
        [
            full_activation_loss(step.outputs.features[pair.student], one.outputs.features[pair.teacher], regress)
            for one in step.teachers
            for pair, regress in zip(one.pairs, one.regressors, strict=True)
        ],
        step.teachers,
    )


@term(teacher=True, derives=True)
def gradient(step: ForwardPass) -> Tensor:
    """The squared distance between the input gradients of student and teacher, the mean over the teachers."""
    theirs = [one.outputs.gradients for one in step.teachers]
    return _mean([gradient_loss(step.input_gradients, one) for one in theirs if one is not None])


@term(derives=True)
def symmetry(step: ForwardPass) -> Tensor:
    """The squared distance between the student's input gradients of images and of their mirrors."""
    mirrored = step.images.detach().flip(3).requires_grad_()
    logits = logits_of(step.student(of_its_dtype(step.student, mirrored)))
    return symmetry_loss(step.input_gradients, input_gradients(logits, step.labels, mirrored))


@term(derives=True)
def input_gradient(step: ForwardPass) -> Tensor:
    """The squared length of the student's input gradients."""
    return squared_length(step.input_gradients)


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return sum(losses[1:], start=losses[0]) / len(losses) if len(losses) > 1 else losses[0]


def _shared(losses: Sequence[Tensor], teachers: Sequence[Taught]) -> tuple[Tensor, ...]:
    return tuple(losses) if len(teachers) == 1 else tuple(loss / len(teachers) for loss in losses)
