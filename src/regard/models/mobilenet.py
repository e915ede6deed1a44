"""MobileNetV2 (Sandler et al., arXiv 1801.04381) for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.attention import AttentionSlot
from regard.errors import InputError

# The stages: (expansion, channels, blocks, stride of the first block) of their runs of blocks.
_STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 1)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)


class InvertedResidual(nn.Module, AttentionSlot):
    """A 1 x 1 convolution to more channels, a depthwise 3 x 3 and a 1 x 1 to fewer; a shortcut where shapes agree."""

    branch_end = "bn3"

    def __init__(self, ins: int, outs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = ins * expansion
        self.conv1 = nn.Conv2d(ins, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outs)
        self.attention = None
        self.shortcut = stride == 1 and ins == outs

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.attention is not None:
            out = self.attention(out)
        return x + out if self.shortcut else out


class SmallImageMobileNetV2(nn.Module):
    """MobileNetV2 of four stages, at a half, a quarter, an eighth and a sixteenth of the images' resolution.

    With width 0.5 it is the MobileNetV2 of HobbitLong/RepDistiller: the blocks of 24 channels keep the resolution,
    activations are ReLU, and the first block has a 1 x 1 convolution to as many channels. The stages end where that
    code reads features for transfer.

    Args:
        num_classes: length of the logits.
        width: factor of all channels but the last, which are 1280 at least.

    Shape: images (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        InputError: the width leaves no channel.
    """

    stage_names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, num_classes: int = 10, *, width: float = 0.5) -> None:
        super().__init__()
        if int(16 * width) < 1:
            raise InputError(f"a MobileNetV2 has a width of at least 1/16, not {width:g}")
        channels = int(32 * width)
        self.conv1 = nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        for name, runs in zip(self.stage_names, _STAGES, strict=True):
            stage = nn.Sequential()
            for expansion, outs, count, stride in runs:
                for i in range(count):
                    stage.append(InvertedResidual(channels, int(outs * width), stride if i == 0 else 1, expansion))
                    channels = int(outs * width)
            self.add_module(name, stage)
        last = int(1280 * max(width, 1.0))
        self.conv2 = nn.Conv2d(channels, last, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last)
        self.classifier = nn.Linear(last, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(images)))
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return self.classifier(torch.relu(self.bn2(self.conv2(x))).mean((2, 3)))
