"""Attention Transfer's pre-activation ResNets: wide ResNets for CIFAR, and ResNets for ImageNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import AttentionSlot
from regard.errors import InputError
from regard.models.staged import StagedNetwork, convolution, init_convolutions

_PREACT_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class WideBlock(nn.Module, AttentionSlot):
    """Twice norm, ReLU and 3 x 3 convolution; if the channels change, the first ReLU also feeds a 1 x 1 shortcut."""

    branch_end = "conv1"

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(ins)
        self.conv0 = convolution(ins, outs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outs)
        self.conv1 = convolution(outs, outs, 3)
        self.convdim = convolution(ins, outs, 1, stride) if ins != outs else None
        self.attention = None

    def forward(self, x: Tensor) -> Tensor:
        active = torch.relu(self.bn0(x))
        out = self.apply_attention(self.conv1(torch.relu(self.bn1(self.conv0(active)))))
        return out + (x if self.convdim is None else self.convdim(active))


def _group(ins: int, outs: int, stride: int, blocks: int) -> nn.Sequential:
    """A sequence of blocks, block0, block1, …, of which only the first has the stride."""
    group = nn.Sequential()
    for i in range(blocks):
        group.add_module(f"block{i}", WideBlock(outs if i else ins, outs, 1 if i else stride))
    return group


class WideResNet(StagedNetwork):
    """A wide ResNet (Zagoruyko and Komodakis, arXiv 1605.07146).

    Three groups have 16 k, 32 k and 64 k channels, at full, half and quarter resolution. The stages end before the last
    norm, where Attention Transfer takes its attention maps.

    Args:
        depth: 6 n + 4, n blocks per group.
        width: k; need not be an integer.
        num_classes: length of the logits.
        uniform_norm_weights: initialise the weights of batch norms uniformly in [0, 1), not with 1, as in the published
            code of Attention Transfer (`bnparams` in utils.py of szagoruyko/attention-transfer).

    Shape: images (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        InputError: the depth is not of the form 6 n + 4, or the width is not positive.
    """

    stage_names = ("group0", "group1", "group2")

    def __init__(self, depth: int, width: float, num_classes: int = 10, *, uniform_norm_weights: bool = False) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise InputError(f"a wide ResNet has a depth of 6 n + 4 (10, 16, 22, 28, 34, 40, …), not {depth}")
        widths = [int(channels * width) for channels in (16, 32, 64)]
        if widths[0] < 1:
            raise InputError(f"a wide ResNet has a width of at least 1/16, not {width}")
        self.conv0 = convolution(3, 16, 3)
        ins = 16
        for name, outs, stride in zip(self.stage_names, widths, (1, 2, 2), strict=True):
            # A first block with stride 2 always has a shortcut convolution, because widths double.
            self.add_module(name, _group(ins, outs, stride, blocks))
            ins = outs
        self.bn = nn.BatchNorm2d(ins)
        self.fc = nn.Linear(ins, num_classes)
        init_convolutions(self, "fan_in")
        nn.init.kaiming_normal_(self.fc.weight, nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)
        if uniform_norm_weights:  # drawn last, so that all other weights are the same with and without
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        x = self.run_stages(self.conv0(images))
        return self.fc(torch.relu(self.bn(x)).mean((2, 3)))


class PreActResNet(StagedNetwork):
    """A pre-activation ResNet of basic blocks (He et al., arXiv 1603.05027).

    A 7 x 7 convolution, norm, ReLU and max pooling are followed by four groups of 64, 128, 256 and 512 channels. The
    first block has no norm before its first convolution, because its input already has norm and ReLU. With depth 18
    this is the network of `resnet-18-at-export.pth`.

    Args:
        depth: 18 or 34.
        num_classes: length of the logits.

    Shape: images (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        InputError: the depth is neither 18 nor 34.
    """

    stage_names = ("group0", "group1", "group2", "group3")

    def __init__(self, depth: int, num_classes: int = 1000) -> None:
        super().__init__()
        if depth not in _PREACT_BLOCKS:
            raise InputError(f"a pre-activation ResNet of basic blocks has a depth of 18 or 34, not {depth}")
        self.conv0 = convolution(3, 64, 7, 2)
        self.bn0 = nn.BatchNorm2d(64)
        ins = 64
        for name, outs, stride, blocks in zip(
            self.stage_names, (64, 128, 256, 512), (1, 2, 2, 2), _PREACT_BLOCKS[depth], strict=True
        ):
            self.add_module(name, _group(ins, outs, stride, blocks))
            ins = outs
        self.get_submodule("group0.block0").bn0 = nn.Identity()
        self.bn = nn.BatchNorm2d(ins)
        self.fc = nn.Linear(ins, num_classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.bn0(self.conv0(images))), 3, stride=2, padding=1)
        x = self.run_stages(x)
        return self.fc(torch.relu(self.bn(x)).mean((2, 3)))
