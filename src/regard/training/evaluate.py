"""Loss and accuracy over a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.data import Loader
from regard.errors import InputError
from regard.logits import class_logits, logits_of, predicted_classes
from regard.modes import evaluation_mode, of_its_dtype
from regard.transfer.labels import checked_labels

MANY_CLASSES = 10
"""Above so many, the five likeliest count too."""


class Score(NamedTuple):
    """Means over the images: cross entropy, and accuracy in [0, 1].

    `top5` is the share of images whose class is among the five likeliest, `skipped` are the images that this process
    could not read, and why.
    """

    loss: float
    accuracy: float
    images: int
    top5: float
    skipped: tuple[str, ...] = ()


@torch.no_grad()
def evaluate(model: nn.Module, loader: Loader, *, summed: Callable[[Tensor], Tensor] | None = None) -> Score:
    """The score of `model` on every image of `loader`, in evaluation mode; the mode is put back after.

    Args:
        model: on the device of the batches.
        loader: of several processes each has a part, with no image in two of them.
        summed: the sum over the processes of a tensor; None: this process is alone.

    Raises:
        InputError: labels that the model has no output for, or not one image that can be read.
    """
    # Sums stay on the device: each look at them would wait for it.
    loss = torch.zeros((), dtype=torch.float64, device="cpu" if loader.device.type == "mps" else loader.device)
    right, among_five, images = torch.zeros_like(loss), torch.zeros_like(loss), 0
    skipped: list[str] = []
    with evaluation_mode(model):
        for batch in loader.epoch(0):
            skipped += batch.skipped
            if not len(batch.images):
                continue
            given = logits_of(model(of_its_dtype(model, batch.images)))
            logits = class_logits(given)
            loss += F.cross_entropy(logits, checked_labels(batch.labels, logits), reduction="sum")
            right += (predicted_classes(given) == batch.labels).sum()
            five = logits.topk(min(5, logits.shape[1])).indices
            among_five += (five == batch.labels[:, None]).sum()
            images += len(batch.labels)
    sums = torch.stack((loss, right, torch.full_like(loss, images), among_five))
    total, correct, count, five_correct = (sums if summed is None else summed(sums)).tolist()
    if not count:
        raise InputError(
            f"not one of the {len(loader.dataset)} images for testing can be read"
            f"{f' (the first: {skipped[0]})' if skipped else ''}; give readable ones"
        )
    return Score(total / count, correct / count, int(count), five_correct / count, tuple(skipped))
