"""Labels, as losses take them."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.errors import InputError
from regard.logits import class_logits


def checked_labels(labels: Tensor, logits: Tensor) -> Tensor:
    """The labels of a batch: int64 (N,), or floating point (N, K), the share of each class.

    Args:
        labels: whole numbers (N,) of any dtype, in [0, K), or shares (N, K). On a GPU the range is not checked, for
            that would wait for the device at every step.
        logits: (N, K), or (N, 1) of two classes.

    Raises:
        InputError: another shape or dtype, or labels outside [0, K).
    """
    n, count = class_logits(logits).shape
    floating = labels.is_floating_point()
    if labels.shape != ((n, count) if floating else (n,)) or labels.dtype == torch.bool or labels.is_complex():
        raise InputError(
            f"labels are {str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)}; expected whole numbers "
            f"({n},) from 0 to {count - 1}, or the share of each class, floating point ({n}, {count})"
        )
    if floating:
        return labels
    if n and labels.device.type == "cpu":
        low, high = (int(end) for end in labels.aminmax())
        if not 0 <= low <= high < count:
            raise InputError(
                f"labels run from {low} to {high}; expected 0 to {count - 1}, for there are {count} classes"
            )
    return labels.long()
