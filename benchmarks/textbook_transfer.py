"""A training step by attention transfer as one writes it from the paper: the peer of `transfer.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attention(features: Tensor) -> Tensor:
    return F.normalize(features.pow(2).mean(1).flatten(1))


class AttentionTransfer:
    """Cross entropy and beta times the squared differences of the maps, at layers with the same names in both."""

    def __init__(self, student: nn.Module, teacher: nn.Module, layers: Sequence[str], beta: float) -> None:
        self.student, self.teacher, self.beta = student, teacher.eval(), beta
        self.layers = layers
        self.of_student: dict[str, Tensor] = {}
        self.of_teacher: dict[str, Tensor] = {}
        for network, features in ((student, self.of_student), (teacher, self.of_teacher)):
            modules = dict(network.named_modules())
            for layer in layers:
                modules[layer].register_forward_hook(self.keeper(features, layer))

    @staticmethod
    def keeper(features: dict[str, Tensor], layer: str):
        def keep(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
            features[layer] = output

        return keep

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            self.teacher(images)
        logits = self.student(images)
        loss = F.cross_entropy(logits, labels)
        for layer in self.layers:
            difference = attention(self.of_student[layer]) - attention(self.of_teacher[layer])
            loss = loss + self.beta * difference.pow(2).mean()
        return loss
