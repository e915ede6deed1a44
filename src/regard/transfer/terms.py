"""Terms of a student's loss: what they are computed from, and how they are registered.

A term is a function of one `ForwardPass`, registered under its name together with the name of its weight, which is an
argument of `Objective` and a field of a recipe's `transfer`. A new term is such a function, and that field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.logits import checked_labels, class_logits
from regard.transfer.guided_maps import Guide
from regard.transfer.pairing import Pair

Task = Literal["cross_entropy", "binary_cross_entropy"]
"""Losses to the labels, see `task_loss`."""

Form = Literal["code", "paper"]
"""Forms of the attention loss, see `attention_loss`."""

FullActivationForm = Literal["fitnets", "paper"]
"""Forms of full-activation transfer, see `full_activation_loss`."""

GuidanceForm = Literal["energy", "l1", "ppce", "rrr"]
"""Forms of the guidance loss, see `guidance_loss`."""


class Outputs(NamedTuple):
    """What a network gives in a forward pass, and with which layers of the student those of a teacher are paired."""

    logits: Tensor
    """(N, K), or (N, 1) of a binary network."""
    maps: dict[str, Tensor]
    """Name of a layer -> attention maps (N, h, w)."""
    features: dict[str, Tensor]
    """Name of a layer -> features (N, C, h, w)."""
    gradients: Tensor | None = None
    """The gradients of the losses by the images, (N, 3, H, W)."""
    pairs: Sequence[Pair] = ()
    regressors: Sequence[nn.Module] = ()
    """One per pair, if features are compared."""


@dataclass
class ForwardPass:
    """What the terms of a step are computed from.

    Args:
        student: the network that is trained.
        images: (N, 3, H, W), which require a gradient if a term that is used `derives`.
        labels: (N,) or (N, K).
        outputs: the student's.
        teachers: the outputs of each teacher.
        form: of the attention loss.
        full_activation_form: of the full-activation loss.
        temperature: of distillation.
        guide: gives the maps that are guided; None without guidance.
        guidance_form: of the guidance loss.
        regions: bool (N, H, W), which the maps are guided to.
        guided: the share of the images of the whole batch that have a region; None: that of these images.
    """

    student: nn.Module
    images: Tensor
    labels: Tensor
    outputs: Outputs
    teachers: Sequence[Outputs]
    form: Form
    full_activation_form: FullActivationForm
    temperature: float
    guide: Guide | None = None
    guidance_form: GuidanceForm = "energy"
    regions: Tensor | None = None
    guided: Tensor | float | None = None

    @cached_property
    def input_gradients(self) -> Tensor:
        """The gradients of the student's losses by the images, (N, 3, H, W)."""
        return input_gradients(self.outputs.logits, self.labels, self.images)


def input_gradients(logits: Tensor, labels: Tensor, images: Tensor, *, create_graph: bool = True) -> Tensor:
    """The gradient of each image's cross entropy by its pixels (Attention Transfer, section 3.2).

    In training mode a batch norm ties the images of a batch together: then it is the gradient of the sum of all, of
    which the image itself contributes nearly everything. The paper's network has no batch norm.

    Args:
        logits: (N, K), or (N, 1) of a binary network, computed from `images`.
        labels: (N,), whole numbers in [0, K).
        images: (N, 3, H, W), normalised, that require a gradient.
        create_graph: whether the gradients can be differentiated in turn.

    Returns:
        (N, 3, H, W).

    Raises:
        InputError: see `checked_labels`.
    """
    loss = F.cross_entropy(class_logits(logits), checked_labels(labels, logits), reduction="sum")
    (gradients,) = torch.autograd.grad(loss, images, create_graph=create_graph, retain_graph=True)
    return gradients


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
