"""The attention loss of Attention Transfer."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor
from torch.nn import functional as F

from regard.errors import InputError, unknown
from regard.maps import activation_map

Form = Literal["code", "paper"]
Reduce = Literal["mean", "sum", "max"]


def attention_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    power: float = 2,
    form: Form = "code",
    *,
    reduce: Reduce = "mean",
) -> Tensor:
    """How far the student's attention map is from the teacher's (Attention Transfer, arXiv 1612.03928, equation 2).

    Both maps are `mean_c |A|^power` (the paper's F_sum^p) or `max_c |A|^power` (F_max^p), flattened and divided by
    their norm: `q` (N, HW); mean and sum are the same then. With `d` the distance `|q_s - q_t|_2` of an image:

    - form 'code', of the published code: `mean over N and HW of (q_s - q_t)^2`, which is `mean over N of d^2 / HW`;
    - form 'paper': `mean over N of d`.

    The paper multiplies its form by beta / 2, the code multiplies its own by beta: `transfer.Objective` does the same.
    See `equivalent_beta` for the factor between them.

    Args:
        student_features: (N, C, H, W).
        teacher_features: (N, C', H', W'); where the sizes differ, both maps are average-pooled to the smaller.
        power: p, at least 1.
        form: 'code' or 'paper'.
        reduce: over the channels: 'mean', 'sum' or 'max'.

    Returns:
        A scalar, differentiable in both.

    Raises:
        InputError: features that are not (N, C, H, W) or have one place only, batches of different size, an unknown
            form or `reduce`.
    """
    for whose, features in (("student", student_features), ("teacher", teacher_features)):
        if features.ndim != 4:
            raise InputError(f"the {whose}'s features are {tuple(features.shape)}; attention needs (N, C, H, W)")
        if features.shape[2] * features.shape[3] < 2:
            raise InputError(
                f"the {whose}'s features are {tuple(features.shape)}, one place: a map of it says nothing, as its norm "
                "is 1 always; take a layer before the pooling"
            )
    if len(student_features) != len(teacher_features):
        raise InputError(f"{len(student_features)} images of the student and {len(teacher_features)} of the teacher")
    return map_loss(
        activation_map(student_features, power, reduce), activation_map(teacher_features, power, reduce), form
    )


def map_loss(student_map: Tensor, teacher_map: Tensor, form: Form = "code") -> Tensor:
    """The attention loss of two maps that are made already, of any scale: (N, H, W) and (N, H', W').

    Raises:
        InputError: an unknown form.
    """
    if student_map.shape[1:] != teacher_map.shape[1:]:
        size = smaller(student_map, teacher_map)
        student_map, teacher_map = F.adaptive_avg_pool2d(student_map, size), F.adaptive_avg_pool2d(teacher_map, size)
    difference = F.normalize(student_map.flatten(1)) - F.normalize(teacher_map.flatten(1))
    if form == "code":
        return difference.square().mean()
    if form == "paper":
        return difference.norm(dim=1).mean()
    raise unknown("form of the attention loss", form, get_args(Form))


def smaller(one: Tensor, other: Tensor) -> tuple[int, int]:
    """The height and the width, each the smaller one, of two tensors (…, H, W)."""
    return min(one.shape[-2], other.shape[-2]), min(one.shape[-1], other.shape[-1])


def equivalent_beta(beta: float, places: int, distance: float, to: Form = "paper") -> float:
    """The beta of one form that pulls as hard as `beta` of the other does, at a given distance of the maps.

    The code's term is `beta d^2 / HW` an image and the paper's `beta / 2 d`, so their pulls by d are `2 beta d / HW`
    and `beta / 2`: `beta_paper = 4 d / HW beta_code`. The factor hangs on `d`: the code's form lets go as the maps
    meet, the paper's does not. (Of its beta the paper says "about 0.1, 10^3 divided by the number of elements of
    the map and the batch size". That is the code's form written as a sum over images and places: its `beta = 1e3`
    divided by `N HW`, 0.12 for 128 images and maps of 8 x 8.)

    Args:
        beta: of the other form.
        places: HW of the maps.
        distance: `d = |q_s - q_t|_2` of the normalised maps, in (0, 2]; for code losses seen in training, it is
            `sqrt(loss * HW)`.
        to: the form that the answer is for.

    Raises:
        InputError: places or distance out of range, an unknown form.
    """
    if places < 2 or not 0 < distance <= 2:
        raise InputError(f"maps of {places} places at distance {distance}; expected at least 2 places, and (0, 2]")
    factor = 4 * distance / places
    if to == "paper":
        return beta * factor
    if to == "code":
        return beta / factor
    raise unknown("form of the attention loss", to, get_args(Form))
