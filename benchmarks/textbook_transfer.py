"""A training step by attention transfer, written plainly from the paper: the peer of `transfer.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attention(features: Tensor) -> Tensor:
    return F.normalize(features.pow(2).mean(1).flatten(1))


class AttentionTransfer:
    """Cross entropy plus beta times the squared differences of the maps, at layers of the same names."""

    def __init__(self, student: nn.Module, teacher: nn.Module, layers: Sequence[str], beta: float) -> None:
        self.student, self.teacher, self.beta = student, teacher.eval(), beta
        self.layers = layers
        self.student_features: dict[str, Tensor] = {}
        self.teacher_features: dict[str, Tensor] = {}
        for network, features in ((student, self.student_features), (teacher, self.teacher_features)):
            modules = dict(network.named_modules())
            for layer in layers:
                modules[layer].register_forward_hook(self.make_hook(features, layer))

    @staticmethod
    def make_hook(features: dict[str, Tensor], layer: str):
        def hook(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
            features[layer] = output

        return hook

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            self.teacher(images)
        logits = self.student(images)
        loss = F.cross_entropy(logits, labels)
        for layer in self.layers:
            difference = attention(self.student_features[layer]) - attention(self.teacher_features[layer])
            loss = loss + self.beta * difference.pow(2).mean()
        return loss
