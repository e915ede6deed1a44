"""Output shapes of the layers of a network, on the meta device, without computing values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

# timm's networks declare their image size; others are tried with these sizes, in pixels.
_SIZES = (224, 64, 32)


def output_shapes(model: nn.Module, layers: Iterable[nn.Module]) -> dict[nn.Module, torch.Size]:
    """The shapes of the layers' outputs on a batch of two images, as layer -> shape.

    `model` runs on the meta device, with copies of its parameters and buffers there, so nothing is computed and nothing
    changes. Layers that do not run, give no tensor, or come after an operation that fails there, are left out.
    """
    layers = list(layers)
    if not layers:
        return {}
    state = {name: value.to("meta") for name, value in chain(model.named_parameters(), model.named_buffers())}
    shapes: dict[nn.Module, torch.Size] = {}

    def note(layer: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[layer] = output.shape

    with ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            hooks.callback(layer.register_forward_hook(note).remove)
        for images in example_images(model):
            with suppress(Exception):  # networks raise any exception for an image size they do not take
                torch.func.functional_call(model, state, (images,))
            if len(shapes) == len(set(layers)):
                break
    return shapes


def example_images(model: nn.Module) -> Iterator[Tensor]:
    """Batches of two images that `model` may take, likeliest first, on the meta device, where they have no values.

    They have the channels of its first convolution or, for what does something else before, three. There are none if
    it has no convolution over images.
    """
    entry = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    if entry is None:
        return
    pretrained_size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (0, 0))[-1]
    for channels in dict.fromkeys((entry.in_channels, 3)):
        for size in dict.fromkeys(filter(None, (pretrained_size, *_SIZES))):
            yield torch.empty(2, channels, size, size, dtype=entry.weight.dtype, device="meta")
