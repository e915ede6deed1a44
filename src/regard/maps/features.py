"""Arranges the outputs of layers as features (N, C, H, W).

Convolutions return (N, C, H, W) already. Vision transformers return tokens (N, T, C), often with prefix tokens (class,
distillation, registers) before the patch tokens; Swin and similar networks return (N, H, W, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from regard.errors import InputError

Reshape = Callable[[Tensor], Tensor]

_IDENTITY = nn.Identity()
_MAX_PREFIX_TOKENS = 5  # a class token and four registers


def describe(value: object) -> str:
    """The dtype and shape of a tensor, or the type of another value, for messages."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def arrangement(
    model: nn.Module, name: str, output: object, images: Tensor | None, reshape: Reshape | None = None
) -> Reshape:
    """The function that arranges the output of a layer, and its gradients, as features (N, C, H, W).

    Without `reshape` the features are a view of the output. Tokens become a grid, without prefix tokens: as many as the
    model declares (`num_prefix_tokens`), or else as many as leave a grid of the images' patches, or one with the
    images' aspect ratio. A 4-D output is taken for (N, H, W, C) if only that reading has the images' aspect ratio. If
    the images (N, 3, H, W) are None, that is unknown, tokens have to form a square. The model is not compiled.
    """
    if not isinstance(output, Tensor):
        raise _no_features(name, f"a {type(output).__name__}")
    shape = tuple(output.shape)
    if reshape is not None:
        features = reshape(output)
        if not isinstance(features, Tensor) or features.ndim != 4:
            result = f"a tensor of shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features)
            raise InputError(
                f"reshape turns the output {shape} of layer {name!r} into {result}; expected features (N, C, H, W)"
            )
        return reshape
    if output.ndim not in (3, 4) or not output.is_floating_point():
        raise _no_features(name, f"a tensor of shape {shape}")
    if images is not None and len(output) != len(images):  # such as windows of the images
        raise _no_features(name, f"a tensor of shape {shape} for {len(images)} images")
    size = None if images is None else (images.shape[-2], images.shape[-1])
    if output.ndim == 4:
        channels_last = _is_channels_last(model, name, shape, size)
        return partial(torch.movedim, source=3, destination=1) if channels_last else _IDENTITY
    prefix, grid = _grid(model, name, shape[1], size or (1, 1))
    return lambda tokens: tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)


def _no_features(name: str, output: str) -> InputError:
    return InputError(
        f"layer {name!r} gives {output}; expected features (N, C, H, W), (N, H, W, C) or tokens (N, T, C): "
        "tap another layer, or pass reshape=, a function that turns the output into (N, C, H, W)"
    )


def _is_channels_last(model: nn.Module, name: str, shape: Sequence[int], size: tuple[int, int] | None) -> bool:
    # Ambiguous if both readings have the aspect ratio of the images, such as (N, 8, 8, 8), or neither, such as after
    # strides that differ by direction. Then timm's models declare their format; others are taken for (N, C, H, W).
    declared = _declared(model, name, "output_fmt") == "NHWC"
    if size is None:
        return declared
    as_nchw, as_nhwc = _has_aspect(shape[2:4], size), _has_aspect(shape[1:3], size)
    return declared if as_nchw == as_nhwc else as_nhwc


def _has_aspect(grid: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether the grid (h, w) has the aspect ratio of the size (H, W), up to the rounding of a stride."""
    (h, w), (height, width) = grid, size
    return abs(h * width - w * height) < max(height, width)


def _grid(model: nn.Module, name: str, tokens: int, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """The number of prefix tokens, and the grid (h, w) of the patch tokens."""
    if _declared(model, name, "reroll") is not None:
        raise InputError(
            f"the tokens of layer {name!r} are in the order of Hiera's mask units, not of the image; pass reshape=, a "
            "function that turns them into (N, C, H, W)"
        )
    prefixes = list(range(min(_MAX_PREFIX_TOKENS, tokens - 1) + 1))
    declared = _declared(model, name, "num_prefix_tokens")
    if isinstance(declared, int) and 0 <= declared < tokens:  # tried first; some networks add the tokens after a layer
        prefixes.insert(0, declared)
    patches = list(_patch_grids(model, name, size))
    for prefix in prefixes:
        for grid in patches:
            if math.prod(grid) == tokens - prefix:
                return prefix, grid
    for exact in (True, False):
        for prefix in prefixes:
            count = tokens - prefix
            h = max(1, round(math.sqrt(count * size[0] / size[1])))
            w = count // h
            if h * w == count and (h * size[1] == w * size[0] if exact else _has_aspect((h, w), size)):
                return prefix, (h, w)
    raise InputError(
        f"layer {name!r} gives {tokens} tokens, which are no grid of an image of {size[0]} x {size[1]} after up to "
        f"{_MAX_PREFIX_TOKENS} prefix tokens; pass reshape=, a function that turns them into (N, C, H, W)"
    )


def _patch_grids(model: nn.Module, name: str, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The grids of the image's patches that the attributes of the model declare."""
    embed = _declared(model, name, "patch_embed")  # timm; torchvision's networks have the patch_size themselves
    patch = _pair(getattr(embed, "patch_size", None) or _declared(model, name, "patch_size"))
    if patch is not None:
        yield size[0] // patch[0], size[1] // patch[1]
        yield -(-size[0] // patch[0]), -(-size[1] // patch[1])  # for an image that is padded to full patches
    grid = _pair(getattr(embed, "grid_size", None))
    if grid is not None:
        yield grid


def _pair(value: object) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, int) for part in value):
        return value
    return None


def _declared(model: nn.Module, name: str, attribute: str) -> object:
    """The attribute of the innermost module around the layer that has it, which may be a part of the model; or None."""
    parts = name.split(".")
    for end in range(len(parts) - 1, -1, -1):
        value = getattr(model.get_submodule(".".join(parts[:end])), attribute, None)
        if value is not None:
            return value
    return None
