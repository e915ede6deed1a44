"""Running a model in evaluation mode, as it was afterwards, on images of its dtype."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode inside the block; each in its own mode again afterwards, errors included.

    The flags are set one by one: a model's own `train()` and `eval()`, which may do more, are not called.
    """
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def of_its_dtype(model: nn.Module, images: Tensor) -> Tensor:
    """The images in the dtype of the model's parameters, of the first that is floating point.

    They stay as they are under autocast, which casts by itself, if they are whole numbers, and if there is no such
    parameter.
    """
    if torch.is_autocast_enabled(images.device.type) or not images.is_floating_point():
        return images
    return images.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), images.dtype))
