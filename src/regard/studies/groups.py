"""SA-Net's per-group class score in the mean over the images of each class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from regard.errors import InputError, unknown
from regard.maps.channel_groups import group_probabilities
from regard.maps.layers import Layer, find_layers
from regard.studies.labelled import labelled
from regard.studies.moments import Moments, MomentsByClass

Target = Literal["label", "predicted"]


@dataclass(frozen=True)
class GroupScores:
    """Scores of the groups of a layer's channels, by class.

    Attributes:
        layer: its name.
        target: "label" or "predicted", whose probability the scores are.
        scores: the score of every group (K, G): mean, squares, standard error, and the images that have one, which are
            all but those where the group masks nothing.
        whole: the probability (K, 1) with the whole image.
    """

    layer: str
    target: Target
    scores: Moments
    whole: Moments

    @property
    def classes(self) -> tuple[int, ...]:
        """The labels that were counted, ascending."""
        return self.whole.classes

    @property
    def images(self) -> tuple[int, ...]:
        """The images of each class."""
        return self.whole.images

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
    """The mean of `maps.group_activation` over the images of each class.

    Args:
        model: as for `maps.group_activation`, like `layer`, `groups` and `batch_size`.
        batches: (images, labels, …): (B, 3, H, W), normalised, on the model's device; whole numbers (B,). Images with a
            negative label are left out.
        target: whose probability: of the "label", or of the class "predicted" for the whole image.
        outputs: for each label the output of the model that stands for it; None: the label itself.
        classes: labels to count; None: all.
        progress: called with the masked images done so far, `groups` for every image.

    Raises:
        InputError: what `maps.group_activation` raises; no image, or none of a class asked for; a label without an
            output.
    """
    if target not in get_args(Target):
        raise unknown("target", target, get_args(Target))
    scores, whole, start = MomentsByClass(), MomentsByClass(), 0
    for images, labels in labelled(batches, classes):

        def report(done: int, _total: int, start: int = start) -> None:
            if progress is not None:
                progress(start + done)

        explained = None if target == "predicted" else _outputs_of(labels, outputs)
        by_group, of_image = group_probabilities(
            model, layer, images, explained, groups, batch_size=batch_size, progress=report
        )
        scores.add(labels, by_group)
        whole.add(labels, of_image[:, None])
        start += len(labels) * groups
    (name,) = find_layers(model, layer)
    return GroupScores(name, target, scores.result(), whole.result())


def _outputs_of(labels: Tensor, outputs: Sequence[int] | None) -> Tensor:
    if outputs is None:
        return labels
    lacking = [label for label in labels.tolist() if label >= len(outputs) or outputs[label] < 0]
    if lacking:
        raise InputError(f"no output of the model stands for class {lacking[0]}; target='predicted' needs none")
    return torch.tensor([outputs[label] for label in labels.tolist()])
