"""Loss and accuracy over a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.data import Batches, FileBatches
from regard.modes import evaluation_mode


class Score(NamedTuple):
    """Means over the images: cross entropy, and accuracy in [0, 1]."""

    loss: float
    accuracy: float
    images: int


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Batches | FileBatches, *, summed: Callable[[Tensor], Tensor] | None = None
) -> Score:
    """The score of `model` on every image of `batches`, in evaluation mode; the mode is put back after.

    Args:
        model: on the device of the batches.
        batches: of several processes each has a part, with no image in two of them.
        summed: the sum over the processes of a tensor; None: this process is alone.
    """
    # Sums stay on the device: each look at them would wait for it.
    loss = torch.zeros((), dtype=torch.float64, device="cpu" if batches.device.type == "mps" else batches.device)
    right, images = torch.zeros_like(loss), 0
    with evaluation_mode(model):
        for batch in batches.epoch(0):
            logits = model(batch.images)
            loss += F.cross_entropy(logits, batch.labels, reduction="sum")
            right += (logits.argmax(1) == batch.labels).sum()
            images += len(batch.labels)
    sums = torch.stack((loss, right, torch.full_like(loss, images)))
    total, correct, count = (sums if summed is None else summed(sums)).tolist()
    return Score(total / count, correct / count, int(count))
