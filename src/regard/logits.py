"""Class scores, where a model gives them and what one score for two classes means, and the labels beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from regard.errors import InputError

_KEYS = ("logits", "out")


def logits_of(output: Any) -> Tensor:
    """The class scores in what a model gives.

    A tensor is taken as it is; of a mapping the entry `logits`, or else `out` (torchvision's segmentation networks); of
    another object its attribute `logits` (Hugging Face's outputs, Inception in training); of a tuple or list the first
    part, which again is any of these.

    Raises:
        InputError: there are none; the message names what there is.
    """
    if isinstance(output, Tensor):
        return output
    part = None
    if isinstance(output, Mapping):
        part = next((output[key] for key in _KEYS if key in output), None)
    elif hasattr(output, "logits"):
        part = output.logits
    elif isinstance(output, tuple | list) and output and output[0] is not output:
        part = output[0]
    if part is not None:
        return logits_of(part)
    what = f"a {type(output).__name__}"
    if isinstance(output, Mapping):
        what += f" with {', '.join(str(key)[:40] for key in list(output)[:5]) or 'nothing in it'}"
    raise InputError(
        f"the model gives {what}; expected class scores (N, classes): a tensor, the first part of a tuple, or 'logits' "
        "or 'out' of a dict"
    )


def class_logits(logits: Tensor) -> Tensor:
    """The logits of all classes (N, K): of a binary network, which has one output z, those of two classes, (0, z).

    Their softmax is (1 - sigmoid(z), sigmoid(z)), and their cross entropy the binary cross entropy of z.

    Args:
        logits: (N, K) or (N, 1).
    """
    if logits.ndim != 2 or logits.shape[1] != 1:
        return logits
    return torch.cat((torch.zeros_like(logits), logits), 1)


def predicted_classes(logits: Tensor) -> Tensor:
    """The classes (N,) of the highest scores; of a binary network's one output z, 1 where z >= 0, else 0.

    Args:
        logits: (N, K) or (N, 1).
    """
    return (logits[:, 0] >= 0).long() if logits.shape[1] == 1 else logits.argmax(1)


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
