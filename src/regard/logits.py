"""Class scores: where a model gives them, what one score for two classes means, which are explained, and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from regard.errors import InputError

Classes = int | Sequence[int] | Sequence[Sequence[int]] | Tensor

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
    description = f"a {type(output).__name__}"
    if isinstance(output, Mapping):
        description += f" with {', '.join(str(key)[:40] for key in list(output)[:5]) or 'nothing in it'}"
    raise InputError(
        f"the model gives {description}; expected class scores (N, classes): a tensor, the first part of a tuple, "
        "or 'logits' or 'out' of a dict"
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


def class_scores(output: object, images: Tensor) -> Tensor:
    """The class scores (N, K) of N images in what a model gives; see `logits_of`.

    Raises:
        InputError: there are none, or of another shape.
    """
    logits = logits_of(output)
    if logits.ndim == 2 and len(logits) == len(images) and logits.shape[1]:
        return logits
    raise InputError(
        f"the model gives a tensor of shape {tuple(logits.shape)}; expected class scores ({len(images)}, classes)"
    )


def chosen_classes(logits: Tensor, classes: Classes | None = None, top: int | None = None) -> Tensor:
    """The classes that are explained.

    Args:
        logits: (N, K), or (N, 1) of a binary network.
        classes: one class for all images, or one for each, (N,), or several for each, (N, k); None: the predicted.
        top: in place of classes: the number of highest scores whose classes are taken, highest first.

    Returns:
        int64 (N,) or (N, k), on the device of the logits.

    Raises:
        InputError: another shape or dtype, or a class outside those of the logits; `top` out of range.
    """
    scores = class_logits(logits.detach())
    n, count = scores.shape
    if top is not None:
        if classes is not None:
            raise InputError("classes and top are both given; give one of them")
        if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= count:
            raise InputError(f"top {top!r} of a model with {count} outputs; expected a whole number from 1 to {count}")
        return scores.topk(top, 1).indices
    if classes is None:
        return predicted_classes(logits.detach())
    expected = f"expected one whole number, or {n}, one for each image, or ({n}, K), K for each"
    try:
        chosen = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"classes are a {type(classes).__name__} that makes no tensor; {expected}") from None
    fits = chosen.shape in ((), (n,)) or (chosen.ndim == 2 and len(chosen) == n and chosen.shape[1] > 0)
    if chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool or not fits:
        raise InputError(f"classes are {str(chosen.dtype).removeprefix('torch.')} {tuple(chosen.shape)}; {expected}")
    if chosen.numel():
        low, high = torch.stack(chosen.aminmax()).tolist()  # one wait for a GPU, not one for each end
        if not 0 <= low <= high < count:
            extent = f"{low} to {high}" if chosen.ndim else f"{low}"
            raise InputError(f"class {extent} of a model with {count} outputs; expected 0 to {count - 1}")
    chosen = chosen.to(logits.device, torch.int64, non_blocking=True)
    return chosen if chosen.ndim == 2 else chosen.expand(n)
