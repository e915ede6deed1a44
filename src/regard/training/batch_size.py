"""How many images a process takes at a time, which batch norms and oneDNN do not all take."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call

from regard.errors import InputError
from regard.training.recipe import Recipe


def left_out(images: int, batch_size: int, processes: int) -> int:
    """The images of the last batch of an epoch if it would leave a process fewer than two, which is then left out.

    Where a whole batch leaves a process one, so may the last; a single batch stays.
    """
    left = images % batch_size
    fewest = 2 if 2 * processes <= batch_size else 1
    return left if left < fewest * processes and batch_size <= images else 0


def fewest_images(recipe: Recipe, model: nn.Module, images: int, image_size: tuple[int, int], processes: int) -> int:
    """The fewest images that a process takes at a time: one if the recipe asks for that and the network allows it.

    Args:
        model: on its device; it is set to training mode, and stays as it is else.
        images: for training, of `image_size` (h, w).
        processes: that share a batch.

    Raises:
        InputError: a process gets one image of a step, and the network has a batch norm that needs more.
    """
    batch = min(recipe.schedule.batch_size, images)
    each = batch // processes
    if -(-each // recipe.schedule.accumulate) > 1 or _takes_one(model, image_size):
        return min(2, -(-each // recipe.schedule.accumulate))
    if each > 1:
        return 2
    raise InputError(
        f"{recipe.model.name} has a batch norm over maps of one pixel, which needs two images at a time, and "
        f"a batch of {batch} leaves a process one; give at least {2 * processes} (schedule.batch_size, and as many "
        "images), or fix the norms (model.fixed_norms)"
    )


def part_sizes(count: int, parts: int, fewest: int) -> list[int]:
    """Into what parts a process takes its images of a step: as `Tensor.chunk`, unless one has fewer than `fewest`."""
    size = -(-count // parts)
    last = count % size or size
    if last >= fewest:
        return [size] * (count // size) + [last] * (last < size)
    parts = max(1, min(parts, count // fewest))
    return [(count + part) // parts for part in reversed(range(parts))]


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


@torch.no_grad()
def _takes_one(model: nn.Module, image_size: tuple[int, int]) -> bool:
    device = next(model.parameters()).device
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            functional_call(model.train(), buffers, (torch.zeros(1, 3, *image_size, device=device),))
        except ValueError as error:
            if "Expected more than 1" not in str(error):  # of torch's batch norms
                raise
            return False
    return True
