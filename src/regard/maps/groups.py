"""SA-Net's per-group class score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regard.errors import InputError
from regard.maps.cam import check_classes, check_images, check_logits
from regard.maps.layers import Layer
from regard.maps.resize import resized
from regard.maps.taps import Taps
from regard.modes import evaluation_mode


def group_activation(
    model: nn.Module,
    layer: Layer,
    images: Tensor,
    classes: int | Sequence[int] | Tensor | None,
    groups: int,
    *,
    batch_size: int = 64,
) -> Tensor:
    """How much each group of a layer's channels, taken alone, speaks for a class.

    The channels are cut into `groups` runs of neighbours. The mean activation of a group is enlarged to the image
    (bilinear, `align_corners=False`) and scaled to [0, 1]; the image is multiplied with it and put through the model
    again. The score is the probability (softmax) of the class. Source: SA-Net (arXiv 2102.00240), its published
    `cam.GroupAct`, for one image; here a batch, each image scaled by itself.

    The model runs in evaluation mode, without gradients, and is afterwards as it was.

    Args:
        model: maps images to class scores (N, classes).
        layer: a name as in `model.named_modules()`, or the module itself; it gives features (N, C, h, w).
        images: (N, 3, H, W), floating point, normalised as the model wants them, on its device.
        classes: one class for all images, or one for each, (N,); None: the predicted ones.
        groups: a divisor of C.
        batch_size: masked images in one forward; there are N * groups of them in all.

    Returns:
        (N, groups), probabilities. NaN for a group whose mean activation is the same everywhere: it masks nothing.

    Raises:
        InputError: images, classes or a layer that do not fit; groups that do not divide the channels.
    """
    check_images(model, images)
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}; expected at least 1")
    with torch.no_grad(), evaluation_mode(model):
        with Taps(model, layer) as taps, torch.compiler.set_stance("force_eager"):
            logits = check_logits(model(images), images)
            (features,) = taps.features.values()
        chosen = check_classes(classes, logits)
        means = _group_means(features, groups).flatten(0, 1)  # (N G, h, w)
        image_of = torch.arange(len(images), device=images.device).repeat_interleave(groups)  # (N G,)
        scores = []
        for part, image in zip(means.split(batch_size), image_of.split(batch_size), strict=True):
            masks = _masks(part, images.shape[-2:]).to(images.dtype)
            probabilities = model(images[image] * masks[:, None]).softmax(1)
            scores.append(probabilities.gather(1, chosen[image, None])[:, 0])
        flat = means.amin((1, 2)) == means.amax((1, 2))
        return torch.cat(scores).masked_fill(flat, torch.nan).reshape(len(images), groups)


def _group_means(features: Tensor, groups: int) -> Tensor:
    """(N, C, h, w) -> (N, groups, h, w)."""
    channels = features.shape[1]
    if groups < 1 or channels % groups:
        divisors = ", ".join(str(g) for g in range(1, channels + 1) if channels % g == 0)
        raise InputError(f"{groups} groups do not divide {channels} channels; expected one of {divisors}")
    return features.unflatten(1, (groups, channels // groups)).mean(2)


def _masks(means: Tensor, size: Sequence[int]) -> Tensor:
    """(n, h, w) -> (n, *size), each scaled to [0, 1]."""
    masks = resized(means, size)
    low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
    return (masks - low) / (high - low)
