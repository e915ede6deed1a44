"""Running a model in evaluation mode, as it was afterwards; on images of its dtype and size; and without values."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from regard.errors import InputError
from regard.stages import unwrapped

# timm's networks declare their image size; others are tried with these sizes, in pixels.
_SIZES = (224, 64, 32)
_sizes_taken: WeakKeyDictionary[nn.Module, set[torch.Size]] = WeakKeyDictionary()


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


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, nothing compiled (compiled code passes by hooks); as before afterwards."""
    # What was never imported compiled nothing, and its import takes a second.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    # inference_mode(False) turns gradients on, hence the order.
    with torch.inference_mode(False), torch.no_grad(), evaluation_mode(model), eager:
        yield


def checked_images(model: nn.Module, images: Tensor) -> Tensor:
    """The images in the dtype of the model's parameters; see `of_its_dtype`.

    Raises:
        InputError: they are not floating point (N, C, H, W) on the model's device.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        description = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(
            f"images are {description}; expected a floating-point tensor (N, C, H, W), normalised for the model"
        )
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) == 1 and images.device not in devices:
        raise InputError(f"images are on {images.device}, the model on {devices.pop()}; move one of them")
    return of_its_dtype(model, images)


def of_its_dtype(model: nn.Module, images: Tensor) -> Tensor:
    """The images in the dtype of the model's parameters, of the first that is floating point.

    They stay as they are under autocast, which casts by itself, if they are whole numbers, and if there is no such
    parameter.

    Raises:
        InputError: the model takes images of another size only.
    """
    check_image_size(model, images)
    if torch.is_autocast_enabled(images.device.type) or not images.is_floating_point():
        return images
    return images.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), images.dtype))


def check_image_size(model: nn.Module, images: Tensor) -> None:
    """Refuses images (N, C, H, W) of a size that the model does not take.

    That is so if it does not run on them, and runs on those of the size that its layers or its publishers say, both
    tried without values.

    Raises:
        InputError: it does not take them.
    """
    size = images.shape[2:]
    accepted = _sizes_taken.setdefault(model, set())
    if size in accepted or images.ndim != 4:
        return
    network = unwrapped(model)
    known = _known_size(network)
    if known is not None and known != size and not _runs(network, images, size) and _runs(network, images, known):
        raise InputError(
            f"{type(network).__name__} takes images of {known[0]} x {known[1]} pixels, and got {size[0]} x {size[1]}; "
            "take images of that size (data.size, where they have many), or make the network for this one (an option "
            "like img_size)"
        )
    accepted.add(size)


def _known_size(model: nn.Module) -> tuple[int, int] | None:
    """(H, W) that a layer of timm or torchvision was made for, or that the network was published for."""
    sizes = (getattr(module, name, None) for module in model.modules() for name in ("img_size", "image_size"))
    published = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", ())[1:]
    for size in (*sizes, published):
        sides = (size, size) if isinstance(size, int) else size
        if isinstance(sides, tuple | list) and len(sides) == 2 and all(isinstance(side, int) for side in sides):
            return sides[0], sides[1]
    return None


def _runs(model: nn.Module, images: Tensor, size: tuple[int, ...]) -> bool:
    image = torch.empty(1, images.shape[1], *size, dtype=images.dtype, device="meta")
    try:
        with evaluation_mode(model):
            run_without_values(model, image)
    except Exception:  # networks raise almost anything at images that they do not take
        return False
    return True


@torch.no_grad()
def run_without_values(model: nn.Module, images: Tensor) -> Any:
    """What `model` gives for images on the meta device, where its parameters and buffers have copies: nothing is
    computed, and nothing changes.

    Raises:
        Exception: of any kind: an operation fails there, or the model does not take the images.
    """
    state = {name: value.to("meta") for name, value in chain(model.named_parameters(), model.named_buffers())}
    return functional_call(model, state, (images,))


def output_shapes(model: nn.Module, layers: Iterable[nn.Module]) -> dict[nn.Module, torch.Size]:
    """The shapes of the layers' outputs on a batch of two images, as layer -> shape; by `run_without_values`.

    Layers that do not run, give no tensor, or come after an operation that fails on the meta device, are left out.
    """
    layers = set(layers)
    if not layers:
        return {}
    shapes: dict[nn.Module, torch.Size] = {}

    def note(layer: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[layer] = output.shape

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_hook(note).remove)
        for images in example_images(model):
            with suppress(Exception):  # networks raise any exception for an image size they do not take
                run_without_values(model, images)
            if len(shapes) == len(layers):
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
