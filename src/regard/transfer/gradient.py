"""Losses on gradients by the images, differentiable by double backward (Attention Transfer, section 3.2).

The gradient of an image is that of its own cross entropy by its pixels, as the network is given them (normalised). The
paper writes norms, weighted by beta / 2; these are squared norms, averaged over the images, whose derivatives also
exist where student and teacher agree. They are weighted as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.logits import class_logits
from regard.transfer.labels import checked_labels


def input_gradients(logits: Tensor, labels: Tensor, images: Tensor, *, create_graph: bool = True) -> Tensor:
    """The gradient of each image's cross entropy by its pixels.

    In training mode a batch norm ties the images of a batch together: then it is the gradient of the sum of all, of
    which the own image's is nearly everything. The paper's network has no batch norm.

    Args:
        logits: (N, K), or (N, 1) of a binary network, computed from `images`.
        labels: (N,), whole numbers in [0, K).
        images: (N, 3, H, W) that require a gradient.
        create_graph: whether the gradients can be differentiated in turn.

    Returns:
        (N, 3, H, W).

    Raises:
        InputError: see `checked_labels`.
    """
    loss = F.cross_entropy(class_logits(logits), checked_labels(labels, logits), reduction="sum")
    (gradients,) = torch.autograd.grad(loss, images, create_graph=create_graph, retain_graph=True)
    return gradients


def gradient_loss(student_gradients: Tensor, teacher_gradients: Tensor) -> Tensor:
    """Gradient-based transfer: the mean over the images of `|J_s - J_t|^2` (equation 5, squared).

    Args:
        student_gradients, teacher_gradients: (N, 3, H, W), by the same images.
    """
    return squared_length(student_gradients - teacher_gradients)


def symmetry_loss(gradients: Tensor, gradients_of_mirrored: Tensor) -> Tensor:
    """How far gradients are from being mirrored when the image is: `|J(x) - flip(J(flip(x)))|^2` (equation 6, squared).

    Args:
        gradients: (N, 3, H, W), by the images.
        gradients_of_mirrored: (N, 3, H, W), by the images mirrored left to right.
    """
    return squared_length(gradients - gradients_of_mirrored.flip(3))


def squared_length(gradients: Tensor) -> Tensor:
    """The mean over the images of `|J|^2`; of the student's own gradients this is the min-l2 penalty.

    Args:
        gradients: (N, 3, H, W).

    Returns:
        A scalar; in float32 at least.
    """
    wide = gradients.to(torch.promote_types(gradients.dtype, torch.float32))
    return wide.square().sum((1, 2, 3)).mean()
