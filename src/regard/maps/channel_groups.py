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

    The channels are cut into `groups` runs of neighbours. The mean activation of a group is enlarged to the image
    (bilinear, `align_corners=False`) and scaled to [0, 1]; the image is multiplied with it and put through the model
    again. The score is the probability (softmax) of the class. Source: SA-Net (arXiv 2102.00240), its published
    `cam.GroupAct`, for one image; here a batch, each image scaled by itself.

    The model runs in evaluation mode, without gradients, and is unchanged afterwards.

    Args:
        model: maps images to class scores (N, classes).
        layer: a name as in `model.named_modules()`, or the module itself; it gives features (N, C, h, w).
        images: (N, 3, H, W), floating point, normalised for the model, on its device.
        classes: one class for all images, or one for each, (N,); None: the predicted ones.
        groups: a divisor of C.
        batch_size: masked images in one forward; there are at most N * groups of them in all.
        progress: called after every such forward with the masked images done and those in all.

    Returns:
        (N, groups), probabilities. NaN for a group whose mean activation is constant, since it masks nothing; no
        image is put through the model for it.

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
    """`group_activation` (N, groups), and the probability of the class for the whole image (N,)."""
    check_interval("batch_size", batch_size, "[1, inf)")
    by_group, logits = group_means(model, layer, images, groups)
    chosen = chosen_classes(logits, classes)
    if chosen.ndim != 1:
        raise InputError(f"classes are {tuple(chosen.shape)}; group activation is of one class per image")
    images, means = checked_images(model, images), by_group.flatten(0, 1)  # (N G, h, w)
    scores = torch.full((len(means),), torch.nan, dtype=logits.dtype, device=images.device)
    masking = (means.amin((1, 2)) != means.amax((1, 2))).nonzero()[:, 0]
    done = len(means) - len(masking)
    with eager_evaluation(model):
        for part in masking.split(batch_size):
            image = part // groups
            masks = resized(means[part], images.shape[-2:])
            low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
            masked = images[image] * ((masks - low) / (high - low)).to(images.dtype)[:, None]
            probabilities = class_logits(class_scores(model(masked), masked)).softmax(1)
            scores[part] = probabilities.gather(1, chosen[image, None])[:, 0]
            done += len(part)
            if progress is not None:
                progress(done, len(means))
    whole = class_logits(logits).softmax(1).gather(1, chosen[:, None])[:, 0]
    return scores.reshape(len(images), groups), whole


def group_means(model: nn.Module, layer: Layer, images: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The mean activation of each group of a layer's channels (N, groups, h, w), and the class scores (N, K).

    Args and errors are those of `group_activation`; the model runs once.
    """
    images = checked_images(model, images)
    with eager_evaluation(model), Taps(model, layer) as taps:
        if len(taps.layers) != 1:
            raise InputError(f"group activation is of one layer; {len(taps.layers)} given: {', '.join(taps.layers)}")
        logits = class_scores(model(images), images)
        (features,) = taps.features.values()
    channels = features.shape[1]
    if groups < 1 or channels % groups:
        divisors = ", ".join(str(g) for g in range(1, channels + 1) if channels % g == 0)
        raise InputError(f"{groups} groups do not divide {channels} channels; expected one of {divisors}")
    return features.unflatten(1, (groups, -1)).mean(2), logits
