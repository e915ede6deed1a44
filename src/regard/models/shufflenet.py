"""ShuffleNet (Zhang et al., arXiv 1707.01083) and ShuffleNet V2 (Ma et al., arXiv 1807.11164) for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import AttentionSlot
from regard.errors import InputError


class ShuffleUnit(nn.Module, AttentionSlot):
    """A unit of ShuffleNet: grouped 1 x 1, depthwise 3 x 3 and grouped 1 x 1 convolutions, with a channel shuffle.

    With stride 2 the branch is concatenated with the pooled input, with stride 1 added to it.
    """

    branch_end = "bn3"

    def __init__(self, ins: int, outs: int, stride: int, groups: int, first_groups: int) -> None:
        super().__init__()
        branch = outs - ins if stride == 2 else outs
        inner = branch // 4
        self.stride, self.first_groups = stride, first_groups
        self.conv1 = nn.Conv2d(ins, inner, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, branch, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(branch)
        self.attention = None

    def forward(self, x: Tensor) -> Tensor:
        out = F.channel_shuffle(torch.relu(self.bn1(self.conv1(x))), self.first_groups)
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.attention is not None:
            out = self.attention(out)
        if self.stride == 2:
            return torch.relu(torch.cat([out, F.avg_pool2d(x, 3, 2, padding=1)], 1))
        return torch.relu(out + x)


class ShuffleUnitV2(nn.Module, AttentionSlot):
    """A unit of ShuffleNet V2: one half of the channels passes through convolutions, then the halves are shuffled."""

    branch_end = "bn3"

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.attention = None

    def forward(self, x: Tensor) -> Tensor:
        kept, out = x.chunk(2, dim=1)
        out = torch.relu(self.bn1(self.conv1(out)))
        out = self.bn2(self.conv2(out))
        out = torch.relu(self.bn3(self.conv3(out)))
        if self.attention is not None:
            out = self.attention(out)
        return F.channel_shuffle(torch.cat([kept, out], 1), 2)


class ShuffleDownV2(nn.Module, AttentionSlot):
    """The first unit of a stage of ShuffleNet V2: two branches at half the resolution; attention ends the second."""

    branch_end = "bn5"

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        half = outs // 2
        self.conv1 = nn.Conv2d(ins, ins, 3, stride=2, padding=1, groups=ins, bias=False)
        self.bn1 = nn.BatchNorm2d(ins)
        self.conv2 = nn.Conv2d(ins, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(ins, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)
        self.attention = None

    def forward(self, x: Tensor) -> Tensor:
        left = torch.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = torch.relu(self.bn3(self.conv3(x)))
        right = self.bn4(self.conv4(right))
        right = torch.relu(self.bn5(self.conv5(right)))
        if self.attention is not None:
            right = self.attention(right)
        return F.channel_shuffle(torch.cat([left, right], 1), 2)


class SmallImageShuffleNet(nn.Module):
    """ShuffleNet of three groups, or V2, for small images, as in HobbitLong/RepDistiller: a 1 x 1 convolution to 24
    channels instead of a stem with strides, then three stages at half, quarter and eighth resolution.

    Version 1 has stages of 240, 480 and 960 channels, with an activation after the depthwise convolutions too; version
    2 of 116, 232 and 464, and a last 1 x 1 convolution to 1024.

    Args:
        version: 1 or 2.
        num_classes: length of the logits.

    Shape: images (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        InputError: another version.
    """

    stage_names = ("layer1", "layer2", "layer3")

    def __init__(self, version: int, num_classes: int = 10) -> None:
        super().__init__()
        if version not in (1, 2):
            raise InputError(f"a ShuffleNet has version 1 or 2, not {version}")
        self.conv1 = nn.Conv2d(3, 24, 1, bias=False)
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
            self.conv2 = nn.Conv2d(ins, 1024, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(1024)
            ins = 1024
        self.version = version
        self.fc = nn.Linear(ins, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(images)))
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        if self.version == 2:
            x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))
