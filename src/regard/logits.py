"""Class scores: where they are in what a model gives, and what one score for two classes means."""

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
