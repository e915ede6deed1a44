"""Loss and accuracy over a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.data import Loader
from regard.errors import InputError
from regard.logits import checked_labels, class_logits, logits_of, predicted_classes
from regard.modes import evaluation_mode, of_its_dtype

MANY_CLASSES = 10
"""Above so many, the five likeliest count too."""


class Score(NamedTuple):
    """How a network did on `images` images.

    `loss` is the mean cross entropy, NaN of no images; `top5` counts those whose class is among the five likeliest;
    `skipped` are the images that this process could not read, and why.
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


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Loader,
    *,
    outputs: Tensor | None = None,
    summed: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Score:
    """The score of `model` on every image of `loader`, in evaluation mode; the mode is put back after.

    Args:
        model: on the device of the batches.
        loader: of several processes each has its slice, with no image in two of them.
        outputs: for each label the output of the model that stands for it, int64 (classes,); images with a label of -1
            are left out. None: labels are outputs.
        summed: gives the sum of a tensor over the processes.

    Raises:
        InputError: labels that the model has no output for; without `outputs`, not one image that can be read.
    """
    # Sums stay on the device, for to read them would wait for it. That of Apple has no float64.
    sums = torch.zeros(4, dtype=torch.float64, device="cpu" if loader.device.type == "mps" else loader.device)
    skipped: list[str] = []
    with evaluation_mode(model):
        for batch in loader.epoch(0):
            skipped += batch.skipped
            if not len(batch.images):
                continue
            given, labels = logits_of(model(of_its_dtype(model, batch.images))), batch.labels
            if outputs is not None:
                known = labels >= 0
                given, labels = given[known], outputs[labels[known]]
            logits = class_logits(given)
            loss = F.cross_entropy(logits, checked_labels(labels, logits), reduction="sum")
            correct = (predicted_classes(given) == labels).sum()
            top5 = (logits.topk(min(5, logits.shape[1])).indices == labels[:, None]).sum()
            sums += torch.stack([value.to(sums) for value in (loss, correct, top5, torch.full_like(top5, len(labels)))])
    total, right, among_five, images = summed(sums).tolist()
    if not images and outputs is None:
        raise InputError(
            f"not one of the {len(loader.dataset)} images for testing can be read"
            f"{f' (the first: {skipped[0]})' if skipped else ''}; give readable ones"
        )
    mean = total / images if images else float("nan")
    return Score(mean, int(right), int(among_five), int(images), tuple(skipped))
