"""Efficient networks for small images: MobileNetV2, ShuffleNet and ShuffleNet V2."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import AttentionSlot
from regard.errors import InputError
from regard.models.staged import StagedNetwork, convolution, init_classifier, init_convolutions

# Stages of MobileNetV2, as groups of blocks: (expansion, channels, number of blocks, stride of the first).
_MOBILENET_STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 1)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)


class _Block(nn.Module, AttentionSlot):
    """Base of blocks with a 1 x 1, a depthwise 3 x 3 and a 1 x 1 convolution in the branch, each with a norm."""

    branch_end = "bn3"

    def __init__(
        self, ins: int, inner: int, outs: int, stride: int = 1, *, first_groups: int = 1, last_groups: int = 1
    ) -> None:
        super().__init__()
        self.conv1 = convolution(ins, inner, 1, groups=first_groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = convolution(inner, inner, 3, stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = convolution(inner, outs, 1, groups=last_groups)
        self.bn3 = nn.BatchNorm2d(outs)
        self.attention = None


class InvertedResidual(_Block):
    """A block of MobileNetV2: expands and reduces the channels; with a shortcut if input and output shapes agree."""

    def __init__(self, ins: int, outs: int, stride: int, expansion: int) -> None:
        super().__init__(ins, ins * expansion, outs, stride)
        self.shortcut = stride == 1 and ins == outs

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.apply_attention(self.bn3(self.conv3(out)))
        return x + out if self.shortcut else out


class SmallImageMobileNetV2(StagedNetwork):
    """MobileNetV2 (Sandler et al., arXiv 1801.04381) with four stages, at 1/2 to 1/16 of the image resolution.

    With width 0.5 it equals the MobileNetV2 of HobbitLong/RepDistiller: the blocks with 24 channels keep the
    resolution, activations are ReLU, and the first block has a 1 x 1 convolution that keeps the number of channels.
    The stages end where that code reads features for transfer.

    Args:
        num_classes: length of the logits.
        width: factor of all channels; the last layer has at least 1280.

    Shape: images (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        InputError: the width is so small that a layer has no channels.
    """

    stage_names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, num_classes: int = 10, *, width: float = 0.5) -> None:
        super().__init__()
        if int(16 * width) < 1:
            raise InputError(f"a MobileNetV2 has a width of at least 1/16, not {width:g}")
        channels = int(32 * width)
        self.conv1 = convolution(3, channels, 3, 2)
        self.bn1 = nn.BatchNorm2d(channels)
        for name, groups in zip(self.stage_names, _MOBILENET_STAGES, strict=True):
            stage = nn.Sequential()
            for expansion, outs, count, stride in groups:
                for i in range(count):
                    stage.append(InvertedResidual(channels, int(outs * width), stride if i == 0 else 1, expansion))
                    channels = int(outs * width)
            self.add_module(name, stage)
        last = int(1280 * max(width, 1.0))
        self.conv2 = convolution(channels, last, 1)
        self.bn2 = nn.BatchNorm2d(last)
        self.classifier = nn.Linear(last, num_classes)
        init_convolutions(self)
        init_classifier(self.classifier)

    def forward(self, images: Tensor) -> Tensor:
        x = self.run_stages(torch.relu(self.bn1(self.conv1(images))))
        return self.classifier(torch.relu(self.bn2(self.conv2(x))).mean((2, 3)))


class ShuffleUnit(_Block):
    """A unit of ShuffleNet; with stride 2 the branch is concatenated with the pooled input, otherwise added to it."""

    def __init__(self, ins: int, outs: int, stride: int, groups: int, first_groups: int) -> None:
        branch = outs - ins if stride == 2 else outs
        super().__init__(ins, branch // 4, branch, stride, first_groups=first_groups, last_groups=groups)
        self.stride, self.first_groups = stride, first_groups

    def forward(self, x: Tensor) -> Tensor:
        out = F.channel_shuffle(torch.relu(self.bn1(self.conv1(x))), self.first_groups)
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.apply_attention(self.bn3(self.conv3(out)))
        if self.stride == 2:
            return torch.relu(torch.cat([out, F.avg_pool2d(x, 3, 2, padding=1)], 1))
        return torch.relu(out + x)


class ShuffleUnitV2(_Block):
    """A unit of ShuffleNet V2: convolves half of the channels, then shuffles both halves."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels // 2, channels // 2, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        identity, out = x.chunk(2, dim=1)
        out = torch.relu(self.bn1(self.conv1(out)))
        out = self.bn2(self.conv2(out))
        out = self.apply_attention(torch.relu(self.bn3(self.conv3(out))))
        return F.channel_shuffle(torch.cat([identity, out], 1), 2)


class ShuffleDownV2(nn.Module, AttentionSlot):
    """The first unit of a ShuffleNet V2 stage: two branches at half the resolution, the second with attention."""

    branch_end = "bn5"

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        half = outs // 2
        self.conv1 = convolution(ins, ins, 3, 2, groups=ins)
        self.bn1 = nn.BatchNorm2d(ins)
        self.conv2 = convolution(ins, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = convolution(ins, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = convolution(half, half, 3, 2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = convolution(half, half, 1)
        self.bn5 = nn.BatchNorm2d(half)
        self.attention = None

    def forward(self, x: Tensor) -> Tensor:
        left = torch.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = torch.relu(self.bn3(self.conv3(x)))
        right = self.bn4(self.conv4(right))
        right = self.apply_attention(torch.relu(self.bn5(self.conv5(right))))
        return F.channel_shuffle(torch.cat([left, right], 1), 2)


class SmallImageShuffleNet(StagedNetwork):
    """ShuffleNet with three groups (Zhang et al., arXiv 1707.01083), or V2 (Ma et al., arXiv 1807.11164).

    As in HobbitLong/RepDistiller, a 1 x 1 convolution to 24 channels replaces the strided stem. Three stages follow,
    at half, quarter and eighth resolution. Version 1 has stages of 240, 480 and 960 channels, and an activation after
    the depthwise convolutions, too. Version 2 has stages of 116, 232 and 464, and a final 1 x 1 convolution to 1024.

    Args:
        version: 1 or 2.
        num_classes: length of the logits.

    Shape: images (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        InputError: the version is neither 1 nor 2.
    """

    stage_names = ("layer1", "layer2", "layer3")

    def __init__(self, version: int, num_classes: int = 10) -> None:
        super().__init__()
        if version not in (1, 2):
            raise InputError(f"a ShuffleNet has version 1 or 2, not {version}")
        self.conv1 = convolution(3, 24, 1)
        self.bn1 = nn.BatchNorm2d(24)
        ins = 24
        widths = (240, 480, 960) if version == 1 else (116, 232, 464)
        for name, outs, blocks in zip(self.stage_names, widths, (4, 8, 4), strict=True):
            stage = nn.Sequential()
            for i in range(blocks):
                if version == 1:
                    stage.append(ShuffleUnit(ins, outs, 1 if i else 2, 3, first_groups=1 if ins == 24 else 3))
                else:
                    stage.append(ShuffleUnitV2(outs) if i else ShuffleDownV2(ins, outs))
                ins = outs
            self.add_module(name, stage)
        if version == 2:
            self.conv2 = convolution(ins, 1024, 1)
            self.bn2 = nn.BatchNorm2d(1024)
            ins = 1024
        self.version = version
        self.fc = nn.Linear(ins, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.run_stages(torch.relu(self.bn1(self.conv1(images))))
        if self.version == 2:
            x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))
