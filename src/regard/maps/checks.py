"""Checks of what the methods that make maps are given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regard.errors import InputError
from regard.logits import class_logits, logits_of, predicted_classes

Classes = int | Sequence[int] | Sequence[Sequence[int]] | Tensor


def check_images(model: nn.Module, images: Tensor, *, differentiates: bool = False) -> None:
    """Raises InputError unless the images are floating point (N, C, H, W) on the model's device.

    Args:
        model: that gets them.
        images: to check.
        differentiates: whether the model's tensors have to be able to be part of a graph, too.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        what = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images are {what}; expected a floating-point tensor (N, C, H, W), normalised for the model")
    devices = set()
    # One walk, and every module asked for its own: several times as fast as asking the model for all its tensors.
    for module in model.modules():
        for tensor in module._parameters.values():
            if tensor is not None:
                devices.add(tensor.device)
                if differentiates and tensor.is_inference():
                    raise _made_under_inference()
        if differentiates:
            for buffer in module._buffers.values():
                if buffer is not None and buffer.is_inference():
                    raise _made_under_inference()
    if len(devices) == 1 and images.device not in devices:
        raise InputError(f"images are on {images.device}, the model on {devices.pop()}; move one of them")


def _made_under_inference() -> InputError:
    return InputError("the model was made under inference_mode, so it has no gradients; make it outside")


def check_logits(output: object, images: Tensor) -> Tensor:
    """The class scores (N, classes) of the images in what a model gives (see `logits_of`), otherwise InputError."""
    logits = logits_of(output)
    if logits.ndim == 2 and len(logits) == len(images) and logits.shape[1]:
        return logits
    raise InputError(
        f"the model gives a tensor of shape {tuple(logits.shape)}; expected class scores ({len(images)}, classes)"
    )


def check_classes(classes: Classes | None, logits: Tensor, *, several: bool = False) -> Tensor:
    """One class an image as int64 (N,), on the device of the logits; None: the predicted ones.

    With `several`, (N, K) is fine too, and stays so.

    Raises:
        InputError: another shape or dtype, or a class outside those of the logits.
    """
    n, count = class_logits(logits).shape
    if classes is None:
        return predicted_classes(logits.detach())
    try:
        given = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"classes are a {type(classes).__name__} that makes no tensor; {_expected(n, several)}"
        ) from None
    as_many = given.shape in ((), (n,)) or (several and given.ndim == 2 and len(given) == n and given.shape[1] > 0)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool or not as_many:
        found = f"{str(given.dtype).removeprefix('torch.')} {tuple(given.shape)}"
        raise InputError(f"classes are {found}; {_expected(n, several)}")
    if given.numel():
        low, high = torch.stack(given.aminmax()).tolist()  # one wait for a GPU, not one for each end
        if not 0 <= low <= high < count:
            found = f"{low} to {high}" if given.ndim else f"{low}"
            raise InputError(f"class {found} of a model with {count} outputs; expected 0 to {count - 1}")
    given = given.to(logits.device, torch.int64, non_blocking=True)
    return given if given.ndim == 2 else given.expand(n)


def check_top(top: int, logits: Tensor) -> Tensor:
    """The `top` classes with the highest scores, highest first, as int64 (N, top).

    Raises:
        InputError: not a whole number of at least 1, or more than there are classes.
    """
    logits = class_logits(logits)
    count = logits.shape[1]
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= count:
        raise InputError(f"top {top!r} of a model with {count} outputs; expected a whole number from 1 to {count}")
    return logits.detach().topk(top, 1).indices


def _expected(n: int, several: bool) -> str:
    more = f", or ({n}, K), K for each" if several else ""
    return f"expected one whole number, or {n}, one for each image{more}"
