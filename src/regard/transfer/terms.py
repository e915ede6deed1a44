"""The registry of the terms of a student's loss, and the forward pass that they are computed from.

A term is a function of a `ForwardPass`, registered under its name together with the name of its weight, which is an
argument of `Objective` and a field of a recipe's `transfer`. A new term needs such a function and such a field.
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
    """The outputs of a network in a forward pass; for a teacher, also its pairs with layers of the student."""

    logits: Tensor
    """(N, K), or (N, 1) of a binary network."""
    maps: dict[str, Tensor]
    """Name of a layer -> attention maps (N, h, w)."""
    features: dict[str, Tensor]
    """Name of a layer -> features (N, C, h, w)."""
    gradients: Tensor | None = None
    """The gradients of the losses by the images (N, 3, H, W)."""
    pairs: Sequence[Pair] = ()
    regressors: Sequence[nn.Module] = ()
    """One per pair, if features are compared."""


@dataclass
class ForwardPass:
    """The forward pass of a step, and the options of the terms that are computed from it.

    Args:
        student: the network to train.
        images: (N, 3, H, W); they require a gradient if a used term `derives`.
        labels: (N,) or (N, K).
        outputs: the student's outputs.
        teachers: the outputs of each teacher.
        form, full_activation_form, temperature, guidance_form: see `Objective`.
        guide: computes the maps to guide; None without guidance.
        regions: bool (N, H, W), the regions of guidance.
        guided: the share of images with a region in the full batch; None: the share in `images`.
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
        """The gradients of the student's losses by the images (N, 3, H, W)."""
        return input_gradients(self.outputs.logits, self.labels, self.images)


def input_gradients(logits: Tensor, labels: Tensor, images: Tensor, *, create_graph: bool = True) -> Tensor:
    """The gradient of each image's cross entropy by its pixels (Attention Transfer, section 3.2).

    In training mode, batch norms make the losses of a batch depend on all of its images. The gradient is then that of
    the sum of all losses, nearly all of which is the image's own. The paper's network has no batch norm.

    Args:
        logits: (N, K), or (N, 1) of a binary network, computed from `images`.
        labels: (N,), whole numbers in [0, K).
        images: (N, 3, H, W), normalised; they require a gradient.
        create_graph: whether the gradients have to be differentiable.

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
        loss: returns a scalar, or a scalar for each pair of layers.
        weight: name of the weight.
        teacher: whether the term compares with a teacher.
        derives: whether the term needs gradients by the images.
    """

    loss: Loss
    weight: str
    teacher: bool
    derives: bool


TERMS: dict[str, Term] = {}
"""The terms by name, in the order in which they are summed."""


def term(weight: str | None = None, *, teacher: bool = False, derives: bool = False) -> Callable[[Loss], Loss]:
    """Registers a function as a term under its name; see `Term`. `weight` defaults to the same name."""

    def register(loss: Loss) -> Loss:
        name = loss.__name__
        TERMS[name] = Term(loss, weight or name, teacher, derives)
        return loss

    return register
