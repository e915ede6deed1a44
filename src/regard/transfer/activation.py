"""Full-activation transfer: the student's features themselves, made into the teacher's by a learned convolution."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import InputError
from regard.transfer.attention import smaller


def regressor(student_channels: int, teacher_channels: int) -> nn.Conv2d:
    """The 1 x 1 convolution from the student's channels to the teacher's, learned with the student."""
    return nn.Conv2d(student_channels, teacher_channels, 1)


def full_activation_loss(student_features: Tensor, teacher_features: Tensor, regress: nn.Module) -> Tensor:
    """The mean squared difference between the teacher's features and what `regress` makes of the student's.

    Attention Transfer (arXiv 1612.03928, section 4.1.2) compares with it: "full-activation" transfer, which asks for
    all that attention maps leave out. The paper's has L2-normalised activations, a decaying weight, and no convolution
    between equal widths; this is the form of FitNets (arXiv 1412.6550).

    Args:
        student_features: (N, C, H, W).
        teacher_features: (N, C', H', W'); where the sizes differ, both are average-pooled to the smaller.
        regress: maps (N, C, h, w) to (N, C', h, w); see `regressor`.

    Returns:
        A scalar, the mean over images, channels and places; the dtype is that of the student's features.

    Raises:
        InputError: features that are not (N, C, H, W), or a number of channels that `regress` does not give.
    """
    if student_features.ndim != 4 or teacher_features.ndim != 4:
        shapes = f"{tuple(student_features.shape)} and {tuple(teacher_features.shape)}"
        raise InputError(f"features are {shapes}; full-activation transfer needs (N, C, H, W)")
    if student_features.shape[2:] != teacher_features.shape[2:]:
        size = smaller(student_features, teacher_features)
        student_features = F.adaptive_avg_pool2d(student_features, size)
        teacher_features = F.adaptive_avg_pool2d(teacher_features, size)
    made = regress(student_features)
    if made.shape != teacher_features.shape:
        raise InputError(f"the regressor gives {tuple(made.shape)}; the teacher's are {tuple(teacher_features.shape)}")
    return F.mse_loss(made, teacher_features.to(made.dtype))
