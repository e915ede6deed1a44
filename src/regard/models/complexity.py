"""What a network costs: parameters and multiply-adds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from regard.modes import evaluation_mode


class Complexity(NamedTuple):
    """Learned parameters, and multiply-adds of one image."""

    parameters: int
    multiply_adds: int


def complexity(model: nn.Module, image_size: int | tuple[int, int]) -> Complexity:
    """The cost of one forward pass of one RGB image of `image_size` (H, W).

    Multiply-adds are those of convolutions and matrix products, as torch counts them; norms, activations, pooling and
    the multiplication by a gate are not counted. Modes of the modules are left as they were.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    parameters = sum(p.numel() for p in model.parameters())
    like = next(model.parameters())
    image = torch.zeros(1, 3, height, width, device=like.device, dtype=like.dtype)
    with torch.no_grad(), evaluation_mode(model), FlopCounterMode(display=False) as counter:
        model(image)
    return Complexity(parameters, counter.get_total_flops() // 2)
