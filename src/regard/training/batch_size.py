"""How the images of a step are shared: by processes, and by the parts of gradient accumulation."""

from __future__ import annotations

import torch
from torch import nn

from regard.training.recipe import Recipe


def left_out(images: int, batch_size: int, processes: int) -> int:
    """The images of the last batch of an epoch if it would leave a process fewer than two, which is then left out.

    Batch norms over maps of one pixel need two. Where a whole batch leaves a process one, so may the last; a single
    batch stays.
    """
    left = images % batch_size
    fewest = 2 if 2 * processes <= batch_size else 1
    return left if left < fewest * processes and batch_size <= images else 0


def part_sizes(images: int, parts: int) -> list[int]:
    """The sizes of so many parts of a process's images, as equal as can be, of two images at least."""
    parts = max(1, min(parts, images // 2))
    return [(images + part) // parts for part in reversed(range(parts))]


def takes_channels_last(model: nn.Module, recipe: Recipe, images: int, device: torch.device, processes: int) -> bool:
    """Whether the network can be trained in the channels last layout on so many images.

    On a processor, oneDNN writes the gradient of the weights of a strided 1 x 1 convolution of fewer than 16 channels
    beyond its memory where the number of threads does not divide that of the images (torch 2.14.1, AMD EPYC).
    """
    batch, share = recipe.schedule.batch_size, torch.get_num_threads() * processes
    divided = recipe.schedule.accumulate == 1 and batch % share == 0 and images % batch % share == 0
    if device.type != "cpu" or torch.get_num_threads() == 1 or divided:
        return True
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    return not any(
        layer.kernel_size == (1, 1) and layer.stride != (1, 1) and layer.in_channels < 16 for layer in convolutions
    )
