"""SA-Net's per-group class score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from regard.errors import InputError, unknown
from regard.logits import class_logits
from regard.maps.checks import check_classes, check_images, check_logits
from regard.maps.labelled import LabelledImages
from regard.maps.layers import Layer
from regard.maps.moments import Moments, MomentsByClass
from regard.maps.resize import resized
from regard.maps.taps import Taps
from regard.modes import evaluation_mode, of_its_dtype

Target = Literal["label", "predicted"]
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
        batch_size: masked images in one forward; there are at most N * groups of them in all.
        progress: called after every such forward with the masked images done and those in all.

    Returns:
        (N, groups), probabilities. NaN for a group whose mean activation is the same everywhere: it masks nothing, and
        no image is put through the model for it.

    Raises:
        InputError: images, classes or a layer that do not fit; groups that do not divide the channels.
    """
    return _scores(model, layer, images, classes, groups, batch_size, progress).groups


@dataclass(frozen=True)
class GroupScores:
    """Scores of the groups of a layer's channels, by class.

    Attributes:
        layer: its name.
        target: "label" or "predicted", whose probability the scores are.
        classes: the labels that were counted, ascending.
        images: of each class.
        scores: the score of every group (K, G): mean, squares, standard error, and the images that have one, which are
            all but those where the group masks nothing.
        whole: the probability (K, 1) with the whole image.
    """

    layer: str
    target: Target
    classes: tuple[int, ...]
    images: tuple[int, ...]
    scores: Moments
    whole: Moments

    @property
    def groups(self) -> int:
        return self.scores.mean.shape[1]


def group_scores(
    model: nn.Module,
    layer: Layer,
    batches: Iterable[Sequence[Any]],
    groups: int,
    *,
    target: Target = "label",
    outputs: Sequence[int] | None = None,
    classes: Iterable[int] | None = None,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> GroupScores:
    """The mean of `group_activation` over the images of each class.

    Args:
        model: as for `group_activation`, like `layer`, `groups` and `batch_size`.
        batches: (images, labels, …): (B, 3, H, W), normalised, on the model's device; whole numbers (B,). Images with a
            negative label are left out.
        target: whose probability: of the "label", or of the class "predicted" for the whole image.
        outputs: for each label the output of the model that stands for it; None: the label itself.
        classes: labels to count; None: all.
        progress: called with the masked images done so far, `groups` for every image.

    Raises:
        InputError: what `group_activation` raises; no image, or none of a class asked for; a label without an output.
    """
    if target not in get_args(Target):
        raise unknown("target", target, get_args(Target))
    chosen = LabelledImages(batches, classes)
    scores, whole = MomentsByClass(), MomentsByClass()
    name, done = "", 0
    for images, labels in chosen:
        explained = None if target == "predicted" else _outputs_of(labels, outputs)
        start = done

        def report(part: int, _total: int, start: int = start) -> None:
            if progress is not None:
                progress(start + part)

        found = _scores(model, layer, images, explained, groups, batch_size, report)
        scores.add(labels, found.groups)
        whole.add(labels, found.whole[:, None])
        name, done = found.layer, done + len(labels) * groups
    present = tuple(sorted(chosen.counts))
    counts = tuple(chosen.counts[label] for label in present)
    return GroupScores(name, target, present, counts, scores.result(), whole.result())


def check_groups(model: nn.Module, layer: Layer, images: Tensor, groups: int) -> None:
    """Raises the InputError of `group_activation` if the layer or the groups do not fit, after one forward."""
    check_images(model, images)
    images = of_its_dtype(model, images)
    with torch.no_grad(), evaluation_mode(model):
        _group_means(_forward(model, layer, images)[1], groups)


@dataclass(frozen=True)
class _Scores:
    """Of a batch: the scores of its groups (N, G), the probability with the whole image (N,), the layer's name."""

    groups: Tensor
    whole: Tensor
    layer: str


def _scores(
    model: nn.Module,
    layer: Layer,
    images: Tensor,
    classes: int | Sequence[int] | Tensor | None,
    groups: int,
    batch_size: int,
    progress: Progress | None,
) -> _Scores:
    check_images(model, images)
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}; expected at least 1")
    images = of_its_dtype(model, images)
    with torch.no_grad(), evaluation_mode(model):
        name, features, logits = _forward(model, layer, images)
        chosen = check_classes(classes, logits)
        means = _group_means(features, groups).flatten(0, 1)  # (N G, h, w)
        scores = torch.full((len(means),), torch.nan, dtype=logits.dtype, device=images.device)
        masking = (means.amin((1, 2)) != means.amax((1, 2))).nonzero()[:, 0]
        done = len(means) - len(masking)
        for part in masking.split(batch_size):
            image = part // groups
            masks = _masks(means[part], images.shape[-2:]).to(images.dtype)
            masked = images[image] * masks[:, None]
            probabilities = class_logits(check_logits(model(masked), masked)).softmax(1)
            scores[part] = probabilities.gather(1, chosen[image, None])[:, 0]
            done += len(part)
            if progress is not None:
                progress(done, len(means))
        whole = class_logits(logits).softmax(1).gather(1, chosen[:, None])[:, 0]
        return _Scores(scores.reshape(len(images), groups), whole, name)


def _forward(model: nn.Module, layer: Layer, images: Tensor) -> tuple[str, Tensor, Tensor]:
    """The layer's name and features (N, C, h, w), and the logits."""
    with Taps(model, layer) as taps, torch.compiler.set_stance("force_eager"):
        logits = check_logits(model(images), images)
        if len(taps.layers) != 1:
            raise InputError(f"group activation is of one layer; {len(taps.layers)} given: {', '.join(taps.layers)}")
        ((name, features),) = taps.features.items()
    return name, features, logits


def _outputs_of(labels: Sequence[int], outputs: Sequence[int] | None) -> list[int]:
    if outputs is None:
        return list(labels)
    beyond = [label for label in labels if label >= len(outputs) or outputs[label] < 0]
    if beyond:
        raise InputError(f"no output of the model stands for class {beyond[0]}; target='predicted' needs none")
    return [outputs[label] for label in labels]


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
