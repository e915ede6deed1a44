"""ResNets for small images (He et al., arXiv 1512.03385, section 4.2), with a place for attention in every block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import AttentionSlot
from regard.errors import InputError

Shortcut = Literal["A", "B"]


def _conv(ins: int, outs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(ins, outs, size, stride=stride, padding=size // 2, bias=False)


class _Padding(nn.Module):
    """A shortcut without parameters (option A): every `stride`-th pixel, channels of zeros on both sides of the others.

    Half of the new channels are in front, half behind, as in the published checkpoints of
    github.com/akamaster/pytorch_resnet_cifar10.

    Shape: (N, ins, H, W) -> (N, outs, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.added, self.stride = outs - ins, stride

    def forward(self, x: Tensor) -> Tensor:
        front = self.added // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, front, self.added - front))


class _Block(nn.Module, AttentionSlot, ABC):
    """A residual block: `relu(shortcut(x) + attention(branch(x)))`."""

    expansion: int
    downsample: nn.Module | None

    def __init__(self, ins: int, planes: int, stride: int, shortcut: Shortcut = "B") -> None:
        super().__init__()
        outs = planes * self.expansion
        self.attention = None
        self.downsample = None
        if stride != 1 or ins != outs:
            if shortcut == "A":
                self.downsample = _Padding(ins, outs, stride)
            else:
                self.downsample = nn.Sequential(_conv(ins, outs, 1, stride), nn.BatchNorm2d(outs))

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """The residual branch, up to its last norm."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        if self.attention is not None:
            out = self.attention(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(out + shortcut)


class BasicBlock(_Block):
    """Two 3 x 3 convolutions."""

    expansion = 1
    branch_end = "bn2"

    def __init__(self, ins: int, planes: int, stride: int, shortcut: Shortcut = "B") -> None:
        super().__init__(ins, planes, stride, shortcut)
        self.conv1 = _conv(ins, planes, 3, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)

    def branch(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))


class Bottleneck(_Block):
    """A 1 x 1, a 3 x 3 and a 1 x 1 convolution to four times the channels."""

    expansion = 4
    branch_end = "bn3"

    def __init__(self, ins: int, planes: int, stride: int, shortcut: Shortcut = "B") -> None:
        super().__init__(ins, planes, stride, shortcut)
        outs = planes * self.expansion
        self.conv1 = _conv(ins, planes, 1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv(planes, planes, 3, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = _conv(planes, outs, 1)
        self.bn3 = nn.BatchNorm2d(outs)

    def branch(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


class CifarResNet(nn.Module):
    """A ResNet of three stages of 16, 32 and 64 planes, at full, half and quarter resolution.

    Args:
        depth: 9 n + 2 with bottleneck blocks, 6 n + 2 with basic ones, n blocks per stage.
        num_classes: length of the logits.
        block: 'bottleneck' (as in the ResNet164 of LSAS) or 'basic'.
        shortcut: where a stage begins: 'B', a 1 x 1 convolution and a norm, or 'A', every second pixel and channels of
            zeros (section 3.3), as in the authors' networks for CIFAR.

    Shape: images (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        InputError: no network of that kind has that depth.
    """

    stage_names = ("layer1", "layer2", "layer3")

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        *,
        block: Literal["bottleneck", "basic"] = "bottleneck",
        shortcut: Shortcut = "B",
    ) -> None:
        super().__init__()
        kinds: dict[str, tuple[type[_Block], int]] = {"bottleneck": (Bottleneck, 9), "basic": (BasicBlock, 6)}
        if block not in kinds:
            raise InputError(f"unknown block {block!r}; known: bottleneck, basic")
        if shortcut not in get_args(Shortcut):
            raise InputError(f"unknown shortcut {shortcut!r}; known: A, B")
        kind, layers = kinds[block]
        blocks, rest = divmod(depth - 2, layers)
        if rest or blocks < 1:
            other, fits = ("basic", 6) if block == "bottleneck" else ("bottleneck", 9)
            advice = f"; block={other!r} has it" if depth > 2 and (depth - 2) % fits == 0 else ""
            raise InputError(f"a CIFAR ResNet of {block} blocks has a depth of {layers} n + 2, not {depth}{advice}")
        self.conv1 = _conv(3, 16, 3)
        self.bn1 = nn.BatchNorm2d(16)
        channels = 16
        for name, planes, stride in zip(self.stage_names, (16, 32, 64), (1, 2, 2), strict=True):
            stage = [
                kind(channels if i == 0 else planes * kind.expansion, planes, stride if i == 0 else 1, shortcut)
                for i in range(blocks)
            ]
            self.add_module(name, nn.Sequential(*stage))
            channels = planes * kind.expansion
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(images)))
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return self.fc(x.mean((2, 3)))
