"""SA-Net's class scores of channel groups, over labelled images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from regard import figures, stats
from regard.errors import InputError, unknown
from regard.maps.channel_groups import group_probabilities
from regard.maps.layers import Layer, find_layers
from regard.notebook import Tabular
from regard.stats import Estimate
from regard.studies.labelled import class_name, labelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Target = Literal["label", "predicted"]


@dataclass(frozen=True)
class GroupScores(Tabular):
    """Scores of the groups of a layer's channels.

    Attributes:
        layer: name of the layer.
        target: "label" or "predicted", the class whose probability the scores are.
        labels: int64 (N,), the labels of the images.
        scores: float64 (N, G), the scores of the groups; NaN if a mean activation is constant and thus masks nothing.
        whole: float64 (N,), the probability with the unmasked image.
        class_names: names of the labels.
    """

    layer: str
    target: Target
    labels: Tensor
    scores: Tensor
    whole: Tensor
    class_names: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[int, ...]:
        """The labels of the images, ascending."""
        return tuple(self.labels.unique().tolist())

    @property
    def images(self) -> tuple[int, ...]:
        """The number of images of each class."""
        return tuple(self.labels.unique(return_counts=True)[1].tolist())

    @property
    def groups(self) -> int:
        """The number of groups."""
        return self.scores.shape[1]

    def estimates(self, label: int) -> list[Estimate]:
        """The mean score of every group over the images of a class; NaN for a group without scores."""
        return [stats.mean(column.numpy(), 0, 1) for column in self.scores[self.labels == label].T]

    def whole_image(self, label: int) -> Estimate:
        """The mean probability with the unmasked image, over the images of a class."""
        return stats.mean(self.whole[self.labels == label].numpy(), 0, 1)

    def group_records(self) -> list[dict[str, Any]]:
        """One record per class and group, numbered from 1: the mean score with its 95% interval."""
        return [
            {
                "class": class_name(label, self.class_names),
                "group": group,
                "images": score.n,
                **stats.interval_record("score", score),
            }
            for label in self.classes
            for group, score in enumerate(self.estimates(label), 1)
        ]

    def to_records(self) -> list[dict[str, Any]]:
        """One record per class: unmasked image, mean over groups, highest and lowest group, groups without a score."""
        records = []
        for label, images in zip(self.classes, self.images, strict=True):
            scores = {i: score for i, score in enumerate(self.estimates(label), 1) if not math.isnan(score.value)}
            name = class_name(label, self.class_names)
            record: dict[str, Any] = {"layer": self.layer, "class": name, "images": images}
            record |= stats.interval_record("whole", self.whole_image(label))
            record["mean"] = math.fsum(score.value for score in scores.values()) / len(scores) if scores else None
            for key, pick in (("highest", max), ("lowest", min)):
                group = pick(scores, key=lambda i: scores[i].value, default=None)
                record[f"{key}_group"] = group
                if group is not None:
                    record |= stats.interval_record(key, scores[group])
            records.append(record | {"groups": self.groups, "without_score": self.groups - len(scores)})
        return records

    def plot(self, label: int | None = None, *, top: float | None = None, style: int = 0) -> Figure:
        """A bar chart of the groups' mean scores for a class, with a dashed line for the unmasked image.

        Args:
            label: the class; None: the first.
            top: the upper limit of the scale; None: fits the data.
            style: index of the bars' colour, see `figures`.
        """
        label = self.classes[0] if label is None else label
        scores, whole = self.estimates(label), self.whole_image(label)
        return figures.bars(scores, xlabel="group", percent=True, level=whole.value, top=top, style=style)


def group_scores(
    model: nn.Module,
    layer: Layer,
    batches: Iterable[Sequence[Any]],
    groups: int,
    *,
    target: Target = "label",
    outputs: Sequence[int] | None = None,
    classes: Iterable[int] | None = None,
    class_names: Sequence[str] = (),
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> GroupScores:
    """`maps.group_activation` of labelled images: the class score of each group of a layer's channels alone.

    Args:
        model, layer, groups, batch_size: see `maps.group_activation`.
        batches: (images, labels, …): (B, 3, H, W), normalised, on the model's device; whole numbers (B,). Images with a
            negative label are left out.
        target: the class to score: the "label", or the class "predicted" for the unmasked image.
        outputs: the model's output for each label; None: the label itself.
        classes: labels to count; None: all.
        class_names: names of the labels, for records.
        progress: called with the number of masked images done so far, of `groups` per image.

    Raises:
        InputError: see `maps.group_activation`; no image, or none of a class in `classes`; a label without an output.
    """
    if target not in get_args(Target):
        raise unknown("target", target, get_args(Target))
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    start = 0
    for images, labels in labelled(batches, classes):

        def report(done: int, _total: int, start: int = start) -> None:
            if progress is not None:
                progress(start + done)

        targets = None if target == "predicted" else _target_outputs(labels, outputs)
        scores, whole = group_probabilities(
            model, layer, images, targets, groups, batch_size=batch_size, progress=report
        )
        parts.append((labels, scores.cpu().double(), whole.cpu().double()))
        start += len(labels) * groups
    (name,) = find_layers(model, layer)
    labels, scores, whole = map(torch.cat, zip(*parts, strict=True))
    return GroupScores(name, target, labels, scores, whole, tuple(class_names))


def _target_outputs(labels: Tensor, outputs: Sequence[int] | None) -> Tensor:
    if outputs is None:
        return labels
    missing = [label for label in labels.tolist() if label >= len(outputs) or outputs[label] < 0]
    if missing:
        raise InputError(f"the model has no output for class {missing[0]}; target='predicted' needs none")
    return torch.tensor([outputs[label] for label in labels.tolist()])
