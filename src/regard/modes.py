"""Running a model in evaluation mode, on images of the right dtype and size, and on the meta device."""

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

# Image sizes in pixels to try with networks that do not declare theirs, as timm's do.
_SIZES = (224, 64, 32)
_accepted_sizes: WeakKeyDictionary[nn.Module, set[torch.Size]] = WeakKeyDictionary()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """A context in which every module is in evaluation mode; afterwards each has its previous mode, also after errors.

    It sets the flags `training` and does not call `train()` or `eval()`, which models may override.
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
def eager_evaluation(model: nn.Module) -> Iterator[None]:
    """A context for evaluation mode, without gradients and without compiled code, which would skip hooks."""
    # If torch._dynamo was never imported, nothing is compiled; importing it takes a second.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    # inference_mode(False) turns gradients on, hence the order.
    with torch.inference_mode(False), torch.no_grad(), evaluation_mode(model), eager:
        yield


def checked_images(model: nn.Module, images: Tensor) -> Tensor:
    """`match_dtype` for images that must be a floating-point tensor (N, C, H, W) on the model's device."""
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        description = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(
            f"images are {description}; expected a floating-point tensor (N, C, H, W), normalised for the model"
        )
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) == 1 and images.device not in devices:
        raise InputError(f"images are on {images.device}, the model on {devices.pop()}; move one of them")
    return match_dtype(model, images)


def match_dtype(model: nn.Module, images: Tensor) -> Tensor:
    """Images in the dtype of the model's first floating-point parameter, checked by `check_image_size`.

    Under autocast, which casts them itself, and if they are integers, images remain unchanged.
    """
    check_image_size(model, images)
    if torch.is_autocast_enabled(images.device.type) or not images.is_floating_point():
        return images
    return images.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), images.dtype))


def check_image_size(model: nn.Module, images: Tensor) -> None:
    """Raises InputError for images (N, C, H, W) of a size on which the model fails, if it runs on the size that its
    layers or its configuration declare. Both runs are on the meta device.
    """
    size = images.shape[2:]
    accepted = _accepted_sizes.setdefault(model, set())
    if size in accepted or images.ndim != 4:
        return
    network = unwrapped(model)
    declared = _declared_size(network)
    if declared is None or declared == size or _runs(network, images, size) or not _runs(network, images, declared):
        accepted.add(size)
        return
    raise InputError(
        f"{type(network).__name__} takes images of {declared[0]} x {declared[1]} pixels, not {size[0]} x {size[1]}; "
        "resize the images to that size (data.size, if they have several), or create the network for this size (an "
        "option like img_size)"
    )


def _declared_size(model: nn.Module) -> tuple[int, int] | None:
    """The image size (H, W) declared by a layer of timm or torchvision, or by the pretrained configuration."""
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
            run_on_meta(model, image)
    except Exception:  # networks raise any exception for an image size that they do not accept
        return False
    return True


def image_channels(model: nn.Module, height: int, width: int) -> int:
    """The number of channels of the images: 3, or those of the first 2-d convolution if only these fit the model."""
    conv = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    if conv is None or conv.in_channels == 3:
        return 3
    images = (torch.empty(1, channels, 1, 1, dtype=conv.weight.dtype) for channels in (3, conv.in_channels))
    return next((batch.shape[1] for batch in images if _runs(model, batch, (height, width))), 3)


@torch.no_grad()
def run_on_meta(model: nn.Module, images: Tensor) -> Any:
    """The output of `model` for images on the meta device, with meta copies of its parameters and buffers."""
    state = {name: value.to("meta") for name, value in chain(model.named_parameters(), model.named_buffers())}
    return functional_call(model, state, (images,))


def output_shapes(model: nn.Module, layers: Iterable[nn.Module]) -> dict[nn.Module, torch.Size]:
    """The shapes of the layers' output tensors for two images, as far as the model runs on the meta device."""
    layers = set(layers)
    if not layers:
        return {}
    shapes: dict[nn.Module, torch.Size] = {}

    def record(layer: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[layer] = output.shape

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_hook(record).remove)
        for images in example_images(model):
            with suppress(Exception):  # as in `_runs`
                run_on_meta(model, images)
            if len(shapes) == len(layers):
                break
    return shapes


def example_images(model: nn.Module) -> Iterator[Tensor]:
    """Batches of two images on the meta device that `model` may accept, the most likely first.

    They have the channels of its first 2-d convolution, or three. A model without 2-d convolutions has no examples.
    """
    conv = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    if conv is None:
        return
    pretrained_size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (0, 0))[-1]
    for channels in dict.fromkeys((conv.in_channels, 3)):
        for size in dict.fromkeys(filter(None, (pretrained_size, *_SIZES))):
            yield torch.empty(2, channels, size, size, dtype=conv.weight.dtype, device="meta")
