"""Arranges the outputs of layers as features (N, C, H, W).

Convolutions give (N, C, H, W) themselves. Vision transformers give tokens (N, T, C), often with prefix tokens (class,
distillation, registers) before those of the patches; Swin and its kin give (N, H, W, C).
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
_PREFIX_TOKENS = 5  # at most, before the grid: a class token and four registers


def arrangement(
    model: nn.Module, name: str, output: object, images: Tensor | None, reshape: Reshape | None = None
) -> Reshape:
    """The function that makes features (N, C, H, W) of this output of the layer `name`, and of its gradients.

    Without `reshape` the features are a view of the output. Tokens become a grid: the first are dropped, as many as the
    model declares (`num_prefix_tokens`) or as leave a grid of the images' patches, or else of the images' aspect ratio.
    An output of four dimensions is (N, H, W, C) if only so its grid has the aspect ratio of the images.

    Args:
        model: not compiled.
        name: of the layer, as in `model.named_modules()`.
        output: the output of the layer.
        images: (N, 3, H, W), what the model was given; None: unknown, tokens are then expected to be a square.
        reshape: makes the features itself, from outputs of any shape.

    Raises:
        InputError: the output cannot be arranged.
    """
    if not isinstance(output, Tensor):
        raise _no_features(name, f"a {type(output).__name__}")
    shape = tuple(output.shape)
    if reshape is not None:
        features = reshape(output)
        if not isinstance(features, Tensor) or features.ndim != 4:
            made = f"a tensor of shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features)
            raise InputError(f"reshape makes {made} of the output {shape} of layer {name!r}; expected (N, C, H, W)")
        return reshape
    if output.ndim not in (3, 4) or not output.is_floating_point():
        raise _no_features(name, f"a tensor of shape {shape}")
    if images is not None and len(output) != len(images):  # windows in place of images, for example
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
        "tap a layer that gives those, or give reshape=, a function that makes (N, C, H, W) of it"
    )


def _is_channels_last(model: nn.Module, name: str, shape: Sequence[int], size: tuple[int, int] | None) -> bool:
    # Ambiguous where both ways have the aspect ratio of the images, as (N, 8, 8, 8) has, and where neither has, as
    # after strides that differ by direction. Then timm's models declare it; others are taken for (N, C, H, W).
    declared = _declared(model, name, "output_fmt") == "NHWC"
    if size is None:
        return declared
    first, last = _has_aspect(shape[2:4], size), _has_aspect(shape[1:3], size)
    return declared if first == last else last


def _has_aspect(grid: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether the grid can be that of an image of the size: as a stride gives it, up to rounding."""
    (h, w), (height, width) = grid, size
    return abs(h * width - w * height) < max(height, width)


def _grid(model: nn.Module, name: str, tokens: int, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """The number of prefix tokens, and the grid (h, w) of the others."""
    if _declared(model, name, "reroll") is not None:
        raise InputError(
            f"the tokens of layer {name!r} are not in the order of the image, but in that of mask units, as Hiera has "
            "them; give reshape=, a function that makes (N, C, H, W) of them"
        )
    prefixes = list(range(min(_PREFIX_TOKENS, tokens - 1) + 1))
    declared = _declared(model, name, "num_prefix_tokens")
    if isinstance(declared, int) and 0 <= declared < tokens:  # not of all layers: some networks add theirs late
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
        f"layer {name!r} gives {tokens} tokens, no grid of an image of {size[0]} x {size[1]} with up to "
        f"{_PREFIX_TOKENS} tokens before it; give reshape=, a function that makes (N, C, H, W) of them"
    )


def _patch_grids(model: nn.Module, name: str, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The grids of the image's patches, by the attributes of the model."""
    embed = _declared(model, name, "patch_embed")  # timm's; torchvision's networks have a patch_size themselves
    patch = _pair(getattr(embed, "patch_size", None) or _declared(model, name, "patch_size"))
    if patch is not None:
        yield size[0] // patch[0], size[1] // patch[1]
        yield -(-size[0] // patch[0]), -(-size[1] // patch[1])  # where the image is padded to whole patches
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
    """The attribute of the innermost module around the layer that has it; None where none has.

    The innermost, because a network may be part of another, behind a normalisation for example.
    """
    parts = name.split(".")
    for end in range(len(parts) - 1, -1, -1):
        value = getattr(model.get_submodule(".".join(parts[:end])), attribute, None)
        if value is not None:
            return value
    return None
