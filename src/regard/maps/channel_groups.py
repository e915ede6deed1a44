"""SA-Net's per-group class score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from regard.errors import InputError, check_interval
from regard.logits import chosen_classes, class_logits, class_scores
from regard.maps.layers import Layer
from regard.maps.method import resized
from regard.maps.taps import Taps
from regard.modes import checked_images, eager_evaluation

Progress = Callable[[int, int], None]


def group_activation(
    model: nn.Module,
    layer: Layer,
    images: Tensor,
    classes: int | Sequence[int] | Tensor | None,
    groups: int,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Tensor:
    """The class score of each group of a layer's channels alone.

    The channels are split into `groups` groups of consecutive channels. The mean activation of each group is resized to
    the image (bilinear, `align_corners=False`), scaled to [0, 1] and multiplied with the image, and the masked image
    goes through the model again. The score is the probability (softmax) of the class. Source: `cam.GroupAct` in the
    code of SA-Net (arXiv 2102.00240), which takes one image; this takes a batch and scales each image separately.

    The model runs in evaluation mode, without gradients, and is unchanged afterwards.

    Args:
        model: maps images to class scores (N, classes).
        layer: a name as in `model.named_modules()`, or the module itself; it gives features (N, C, h, w).
        images: (N, 3, H, W), floating point, normalised for the model, on its device.
        classes: one class for all images, or one per image, (N,); None: the predicted classes.
        groups: a divisor of C.
        batch_size: masked images per forward; there are at most N * groups masked images.
        progress: called after each of these forwards with the number of masked images done and their total.

    Returns:
        (N, groups), probabilities; NaN for a group whose mean activation is constant and therefore masks nothing.

    Raises:
        InputError: images, classes or a layer that do not fit; groups that do not divide the channels.
    """
    return group_probabilities(model, layer, images, classes, groups, batch_size=batch_size, progress=progress)[0]


def group_probabilities(
    model: nn.Module,
    layer: Layer,
    images: Tensor,
    classes: int | Sequence[int] | Tensor | None,
    groups: int,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """`group_activation` (N, groups), and the probability of the class for the unmasked image (N,)."""
    check_interval("batch_size", batch_size, "[1, inf)")
    activations, logits = group_means(model, layer, images, groups)
    targets = chosen_classes(logits, classes)
    if targets.ndim != 1:
        raise InputError(f"classes are {tuple(targets.shape)}; expected one class per image, (N,)")
    images, means = checked_images(model, images), activations.flatten(0, 1)  # (N G, h, w)
    scores = torch.full((len(means),), torch.nan, dtype=logits.dtype, device=images.device)
    varying = (means.amin((1, 2)) != means.amax((1, 2))).nonzero()[:, 0]
    done = len(means) - len(varying)
    with eager_evaluation(model):
        for rows in varying.split(batch_size):
            image = rows // groups
            masks = resized(means[rows], images.shape[-2:])
            low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
            masked = images[image] * ((masks - low) / (high - low)).to(images.dtype)[:, None]
            probabilities = class_logits(class_scores(model(masked), masked)).softmax(1)
            scores[rows] = probabilities.gather(1, targets[image, None])[:, 0]
            done += len(rows)
            if progress is not None:
                progress(done, len(means))
    unmasked = class_logits(logits).softmax(1).gather(1, targets[:, None])[:, 0]
    return scores.reshape(len(images), groups), unmasked


def group_means(model: nn.Module, layer: Layer, images: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The mean activation of each group of a layer's channels (N, groups, h, w), and the class scores (N, K)."""
    images = checked_images(model, images)
    with eager_evaluation(model), Taps(model, layer) as taps:
        if len(taps.layers) != 1:
            raise InputError(f"group activation takes one layer, not {len(taps.layers)}: {', '.join(taps.layers)}")
        logits = class_scores(model(images), images)
        (features,) = taps.features.values()
    channels = features.shape[1]
    if groups < 1 or channels % groups:
        divisors = ", ".join(str(g) for g in range(1, channels + 1) if channels % g == 0)
        raise InputError(f"{groups} groups do not divide {channels} channels; expected one of {divisors}")
    return features.unflatten(1, (groups, -1)).mean(2), logits
