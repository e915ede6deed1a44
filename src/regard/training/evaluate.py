"""Loss and accuracy over a data set."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from regard.data import Batches
from regard.modes import evaluation_mode


class Score(NamedTuple):
    """Means over the images: cross entropy, and accuracy in [0, 1]."""

    loss: float
    accuracy: float
    images: int


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches) -> Score:
    """The score of `model` on every image of `batches`, in evaluation mode; the mode is put back after."""
    loss, correct, images = 0.0, 0, 0
    with evaluation_mode(model):
        for batch in batches.epoch(0):
            logits = model(batch.images)
            loss += F.cross_entropy(logits, batch.labels, reduction="sum").double().item()
            correct += int((logits.argmax(1) == batch.labels).sum())
            images += len(batch.labels)
    return Score(loss / images, correct / images, images)
