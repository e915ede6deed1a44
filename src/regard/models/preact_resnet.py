"""Pre-activation ResNets for ImageNet (He et al., arXiv 1603.05027), as Attention Transfer publishes one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import InputError
from regard.models.wide_resnet import wide_group

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class PreActResNet(nn.Module):
    """A pre-activation ResNet of basic blocks, in four groups of 64, 128, 256 and 512 channels.

    A 7 x 7 convolution, norm, ReLU and max pooling come first; the first block, which reads what is normed and
    rectified already, has neither before its first convolution. This is the network of `resnet-18-at-export.pth`.

    Args:
        depth: 18 or 34.
        num_classes: length of the logits.

    Shape: images (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        InputError: another depth.
    """

    stage_names = ("group0", "group1", "group2", "group3")

    def __init__(self, depth: int, num_classes: int = 1000) -> None:
        super().__init__()
        if depth not in _BLOCKS:
            raise InputError(f"a pre-activation ResNet of basic blocks has a depth of 18 or 34, not {depth}")
        self.conv0 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn0 = nn.BatchNorm2d(64)
        ins = 64
        for name, outs, stride, blocks in zip(
            self.stage_names, (64, 128, 256, 512), (1, 2, 2, 2), _BLOCKS[depth], strict=True
        ):
            self.add_module(name, wide_group(ins, outs, stride, blocks))
            ins = outs
        self.get_submodule("group0.block0").bn0 = nn.Identity()
        self.bn = nn.BatchNorm2d(ins)
        self.fc = nn.Linear(ins, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.bn0(self.conv0(images))), 3, stride=2, padding=1)
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return self.fc(torch.relu(self.bn(x)).mean((2, 3)))
