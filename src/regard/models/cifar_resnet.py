"""ResNets for small images (He et al., arXiv 1512.03385, section 4.2), with a slot for attention in every block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import AttentionSlot
from regard.errors import InputError
from regard.models.staged import StagedNetwork, convolution, init_convolutions

Shortcut = Literal["A", "B"]

# Depth -> blocks per stage.
_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class _Padding(nn.Module):
    """A shortcut without parameters (option A): takes every `stride`-th pixel, and adds channels of zeros.

    Half of them are in front, half behind, as in the checkpoints of github.com/akamaster/pytorch_resnet_cifar10.
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
                self.downsample = nn.Sequential(convolution(ins, outs, 1, stride), nn.BatchNorm2d(outs))

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """The residual branch, up to its last norm."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.apply_attention(self.branch(x))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class BasicBlock(_Block):
    """Two 3 x 3 convolutions."""

    expansion = 1
    branch_end = "bn2"

    def __init__(self, ins: int, planes: int, stride: int, shortcut: Shortcut = "B") -> None:
        super().__init__(ins, planes, stride, shortcut)
        self.conv1 = convolution(ins, planes, 3, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = convolution(planes, planes, 3)
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
        self.conv1 = convolution(ins, planes, 1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = convolution(planes, planes, 3, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = convolution(planes, outs, 1)
        self.bn3 = nn.BatchNorm2d(outs)

    def branch(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


class _ResNet(StagedNetwork):
    """A 3 x 3 convolution and stages of residual blocks; each stage halves the resolution, except the first."""

    def __init__(
        self,
        kind: type[_Block],
        blocks: Sequence[int],
        planes: Sequence[int],
        stem: int,
        num_classes: int,
        shortcut: Shortcut = "B",
    ) -> None:
        super().__init__()
        self.conv1 = convolution(3, stem, 3)
        self.bn1 = nn.BatchNorm2d(stem)
        channels = stem
        for name, count, width in zip(self.stage_names, blocks, planes, strict=True):
            stage = nn.Sequential()
            for i in range(count):
                stride = 2 if i == 0 and name != self.stage_names[0] else 1
                stage.append(kind(channels, width, stride, shortcut))
                channels = width * kind.expansion
            self.add_module(name, stage)
        self.fc = nn.Linear(channels, num_classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.run_stages(torch.relu(self.bn1(self.conv1(images))))
        return self.fc(x.mean((2, 3)))


class CifarResNet(_ResNet):
    """A ResNet with three stages of 16, 32 and 64 channels, at full, half and quarter resolution.

    With bottleneck blocks the stages have four times as many channels.

    Args:
        depth: 9 n + 2 with bottleneck blocks, 6 n + 2 with basic ones, n blocks per stage.
        num_classes: length of the logits.
        width: factor of the channels of the stages. The first convolution has as many channels as a basic first stage,
            but at most 32, as in ResNet8x4 and ResNet32x4 (width 4) of HobbitLong/RepDistiller.
        block: 'bottleneck' (as in the ResNet164 of LSAS) or 'basic'.
        shortcut: shortcut at the start of a stage: 'B', a 1 x 1 convolution and a norm, or 'A', every second pixel and
            channels of zeros (section 3.3), as in the authors' networks for CIFAR.

    Shape: images (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        InputError: the block or shortcut is unknown, the depth does not fit the block, or the width is so small that a
            layer has no channels.
    """

    stage_names = ("layer1", "layer2", "layer3")

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        *,
        width: float = 1.0,
        block: Literal["bottleneck", "basic"] = "bottleneck",
        shortcut: Shortcut = "B",
    ) -> None:
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
        planes = [int(width * channels) for channels in (16, 32, 64)]
        if planes[0] < 1:
            raise InputError(f"a CIFAR ResNet has a width of at least 1/16, not {width:g}")
        super().__init__(kind, [blocks] * 3, planes, min(planes[0], 32), num_classes, shortcut)


class SmallImageResNet(_ResNet):
    """A ResNet with an ImageNet depth for small images: its first convolution is 3 x 3, without stride or pooling.

    Four stages have 64, 128, 256 and 512 channels (times 4 with bottleneck blocks), at full, half, quarter and eighth
    resolution. With depth 50 it is the ResNet50 of HobbitLong/RepDistiller, with 23,705,252 parameters for 100 classes.

    Args:
        depth: 18, 34 (basic blocks), 50, 101 or 152 (bottleneck blocks).
        num_classes: length of the logits.

    Shape: images (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        InputError: the depth is none of these.
    """

    stage_names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        if depth not in _DEPTHS:
            raise InputError(f"a ResNet for small images has a depth of {', '.join(map(str, _DEPTHS))}, not {depth}")
        kind = BasicBlock if depth < 50 else Bottleneck
        super().__init__(kind, _DEPTHS[depth], (64, 128, 256, 512), 64, num_classes)
