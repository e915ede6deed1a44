"""Shared parts of regard's networks: a base class with stages, convolutions, and initialisation."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


class StagedNetwork(nn.Module):
    """A network whose children `stage_names` are its stages, in order; see `regard.stages`."""

    stage_names: tuple[str, ...]

    def run_stages(self, x: Tensor) -> Tensor:
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return x


def convolution(ins: int, outs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias; with stride 1 it keeps the resolution."""
    return nn.Conv2d(ins, outs, size, stride=stride, padding=size // 2, groups=groups, bias=False)


def init_convolutions(network: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """Initialises all convolutions for ReLU (He et al., arXiv 1502.01852), with biases of 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_classifier(classifier: nn.Linear) -> None:
    """Initialises the weights with a standard deviation of 0.01, and the bias with 0."""
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
