"""What regard's networks share: stages that run one after another, and how convolutions start."""

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
    """A convolution without bias that keeps the resolution, but for its stride."""
    return nn.Conv2d(ins, outs, size, stride=stride, padding=size // 2, groups=groups, bias=False)


def init_convolutions(network: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """Draws the weights of all convolutions as He et al. (arXiv 1502.01852) for ReLU; their biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_classifier(classifier: nn.Linear) -> None:
    """Draws small weights, of a standard deviation of 0.01; the bias is 0."""
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
