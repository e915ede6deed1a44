"""Pre-activation wide ResNets (Zagoruyko and Komodakis, arXiv 1605.07146), as Attention Transfer uses them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.attention import AttentionSlot
from regard.errors import InputError


class WideBlock(nn.Module, AttentionSlot):
    """Norm, ReLU, 3 x 3 convolution, twice; where the channels change, the shortcut is a 1 x 1 convolution.

    That convolution reads what the branch reads: `x` after the first norm and ReLU.
    """

    branch_end = "conv1"

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(ins)
        self.conv0 = nn.Conv2d(ins, outs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outs)
        self.conv1 = nn.Conv2d(outs, outs, 3, padding=1, bias=False)
        self.convdim = nn.Conv2d(ins, outs, 1, stride=stride, bias=False) if ins != outs else None
        self.attention = None

    def forward(self, x: Tensor) -> Tensor:
        active = torch.relu(self.bn0(x))
        out = self.conv1(torch.relu(self.bn1(self.conv0(active))))
        if self.attention is not None:
            out = self.attention(out)
        return out + (x if self.convdim is None else self.convdim(active))


def wide_group(ins: int, outs: int, stride: int, blocks: int) -> nn.Sequential:
    """Blocks in a row, block0, block1, …, the first of which has the stride."""
    group = nn.Sequential()
    for i in range(blocks):
        group.add_module(f"block{i}", WideBlock(outs if i else ins, outs, 1 if i else stride))
    return group


class WideResNet(nn.Module):
    """A wide ResNet of three groups of 16 k, 32 k and 64 k channels, at full, half and quarter resolution.

    The stages end before the last norm, where Attention Transfer reads its attention maps.

    Args:
        depth: 6 n + 4, n blocks per group.
        width: k; need not be an integer.
        num_classes: length of the logits.
        uniform_norm_weights: the weights of the batch norms start uniformly distributed in [0, 1), not at 1, as in the
            code published with Attention Transfer (`bnparams` in utils.py of szagoruyko/attention-transfer).

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
        self.conv0 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        ins = 16
        for name, outs, stride in zip(self.stage_names, widths, (1, 2, 2), strict=True):
            # A first block that halves the resolution always has a shortcut convolution: widths double.
            self.add_module(name, wide_group(ins, outs, stride, blocks))
            ins = outs
        self.bn = nn.BatchNorm2d(ins)
        self.fc = nn.Linear(ins, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)
        if uniform_norm_weights:  # drawn last: all other weights start the same with and without
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv0(images)
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return self.fc(torch.relu(self.bn(x)).mean((2, 3)))
