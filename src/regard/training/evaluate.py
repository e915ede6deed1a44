"""Loss and accuracy over a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.data import Loader
from regard.errors import InputError
from regard.logits import checked_labels, class_logits, logits_of, predicted_classes
from regard.modes import evaluation_mode, of_its_dtype
from regard.notebook import records_html
from regard.stats import proportion, without_nan

MANY_CLASSES = 10
"""With more classes than this, top-5 accuracy is reported, too."""


class Score(NamedTuple):
    """The test result of a network on `images` images.

    `loss` is the mean cross entropy, NaN without images; `correct` and `top5` are numbers of images; `skipped` lists
    the images that this process could not read, each with the reason.
    """

    loss: float
    correct: int
    top5: int
    images: int
    skipped: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return self.correct / self.images

    def to_records(self) -> list[dict[str, Any]]:
        """One dict, JSON-ready: `images`, `loss`, `accuracy` and `top5` with the ends of their 95% intervals."""
        record: dict[str, Any] = {"images": self.images, "loss": self.loss}
        for measure, count in (("accuracy", self.correct), ("top5", self.top5)):
            rate = proportion(count, self.images)
            record |= {measure: rate.value, f"{measure}_low": rate.low, f"{measure}_high": rate.high}
        return [without_nan(record)]

    def _repr_html_(self) -> str:
        return records_html(self.to_records())


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Loader,
    *,
    outputs: Tensor | None = None,
    summed: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Score:
    """Tests `model` on every image of `loader`, in evaluation mode; restores the mode afterwards.

    Args:
        model: model on the device of the batches.
        loader: loader of the images; with several processes, of the rank's slice.
        outputs: index of the model's output for each label, int64 (classes,); images with label -1 are left out. None
            if labels are output indices.
        summed: function that sums a tensor over the processes.

    Raises:
        InputError: a label without an output of the model; without `outputs`, no image can be read.
    """
    # Sums stay on the device, because reading them would wait for it. MPS has no float64.
    sums = torch.zeros(4, dtype=torch.float64, device="cpu" if loader.device.type == "mps" else loader.device)
    skipped: list[str] = []
    with evaluation_mode(model):
        for batch in loader.epoch(0):
            skipped += batch.skipped
            if not len(batch.images):
                continue
            output, labels = logits_of(model(of_its_dtype(model, batch.images))), batch.labels
            if outputs is not None:
                known = labels >= 0
                output, labels = output[known], outputs[labels[known]]
            logits = class_logits(output)
            loss = F.cross_entropy(logits, checked_labels(labels, logits), reduction="sum")
            correct = (predicted_classes(output) == labels).sum()
            top5 = (logits.topk(min(5, logits.shape[1])).indices == labels[:, None]).sum()
            sums += torch.stack([value.to(sums) for value in (loss, correct, top5, torch.full_like(top5, len(labels)))])
    total, right, among_five, images = summed(sums).tolist()
    if not images and outputs is None:
        raise InputError(
            f"none of the {len(loader.dataset)} test images can be read"
            f"{f' (the first: {skipped[0]})' if skipped else ''}; give readable ones"
        )
    mean = total / images if images else float("nan")
    return Score(mean, int(right), int(among_five), int(images), tuple(skipped))
