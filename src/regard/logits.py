"""Class scores: extracting logits from a model's output, logits of binary networks, predicted classes, and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from regard.errors import InputError

Classes = int | Sequence[int] | Sequence[Sequence[int]] | Tensor

_KEYS = ("logits", "out")


def logits_of(output: Any) -> Tensor:
    """The class scores in the output of a model.

    They are the output itself if it is a tensor; the entry `logits`, or else `out` (torchvision's segmentation
    networks), of a mapping; the attribute `logits` of another object (Hugging Face's outputs, Inception in training);
    or the first element of a tuple or list, to which the same rules apply.
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
        description += f" with {', '.join(str(key)[:40] for key in list(output)[:5]) or 'no entries'}"
    raise InputError(
        f"the model returns {description}; expected class scores (N, classes): a tensor, the first element of a tuple, "
        "or 'logits' or 'out' of a dict"
    )


def class_logits(logits: Tensor) -> Tensor:
    """Logits of all classes, (N, K). For a binary network with one output z, (N, 1), they are (0, z), with the softmax
    (1 - sigmoid(z), sigmoid(z)) and the binary cross entropy of z as their cross entropy.
    """
    if logits.ndim != 2 or logits.shape[1] != 1:
        return logits
    return torch.cat((torch.zeros_like(logits), logits), 1)


def predicted_classes(logits: Tensor) -> Tensor:
    """The predicted classes (N,) of logits (N, K); for a binary network with one output z, 1 where z >= 0, else 0."""
    return (logits[:, 0] >= 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def checked_labels(labels: Tensor, logits: Tensor) -> Tensor:
    """The labels of a batch: int64 classes (N,) in [0, K), or floating-point class probabilities (N, K).

    On a GPU the range of the labels is not checked, because that would synchronise with the device in every step.
    """
    n, count = class_logits(logits).shape
    floating = labels.is_floating_point()
    if labels.shape != ((n, count) if floating else (n,)) or labels.dtype == torch.bool or labels.is_complex():
        raise InputError(
            f"labels are {str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)}; expected integers ({n},) "
            f"from 0 to {count - 1}, or floating-point class probabilities ({n}, {count})"
        )
    if floating:
        return labels
    if n and labels.device.type == "cpu":
        low, high = (int(bound) for bound in labels.aminmax())
        if not 0 <= low <= high < count:
            raise InputError(
                f"labels run from {low} to {high}; expected 0 to {count - 1}, because there are {count} classes"
            )
    return labels.long()


def class_scores(output: object, images: Tensor) -> Tensor:
    """The class scores (N, K) of N images in the output of a model; see `logits_of`."""
    logits = logits_of(output)
    if logits.ndim == 2 and len(logits) == len(images) and logits.shape[1]:
        return logits
    raise InputError(
        f"the model returns a tensor of shape {tuple(logits.shape)}; expected class scores ({len(images)}, classes)"
    )


def chosen_classes(logits: Tensor, classes: Classes | None = None, top: int | None = None) -> Tensor:
    """The classes to explain, int64 (N,) or (N, k), on the device of the logits.

    Args:
        logits: (N, K), or (N, 1) from a binary network.
        classes: one class for all images, one per image (N,), or several per image (N, k); None: the predicted classes.
        top: selects the classes with that many highest scores, in descending order, in place of `classes`.
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
    expected = f"expected one integer, {n} integers (one per image), or ({n}, k) integers (k per image)"
    try:
        indices = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"classes are a {type(classes).__name__} that cannot be converted to a tensor; {expected}"
        ) from None
    fits = indices.shape in ((), (n,)) or (indices.ndim == 2 and len(indices) == n and indices.shape[1] > 0)
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool or not fits:
        raise InputError(f"classes are {str(indices.dtype).removeprefix('torch.')} {tuple(indices.shape)}; {expected}")
    if indices.numel():
        low, high = torch.stack(indices.aminmax()).tolist()  # one synchronisation with a GPU, not two
        if not 0 <= low <= high < count:
            extent = f"{low} to {high}" if indices.ndim else f"{low}"
            raise InputError(f"class {extent} of a model with {count} outputs; expected 0 to {count - 1}")
    indices = indices.to(logits.device, torch.int64, non_blocking=True)
    return indices if indices.ndim == 2 else indices.expand(n)
