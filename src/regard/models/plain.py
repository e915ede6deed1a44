"""Plain networks without shortcuts, for small images: Network in Network and VGG."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import InputError, check_interval
from regard.models.staged import StagedNetwork, init_classifier, init_convolutions

# Groups of the wide NIN: (kernel size, channels) of each convolution.
_NIN_GROUPS = (
    ((5, 192), (1, 160), (1, 96)),
    ((5, 192), (1, 192), (1, 192)),
    ((3, 192), (1, 192), (1, 192)),
)
# Depth -> convolutions per block of VGG.
_VGG_DEPTHS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class NIN(StagedNetwork):
    """Network in Network (Lin, Chen and Yan, arXiv 1312.4400), in the variant of the author of Attention Transfer.

    Three groups of convolutions run at full, half and quarter resolution. Each has a 5 x 5 or 3 x 3 convolution and two
    1 x 1 convolutions, each with norm and ReLU. Between the groups, a max and an average pooling of 3 x 3 with stride 2
    and `ceil_mode` reduce 32 pixels to 16 and 8. The mean over all pixels and a linear layer follow, as in
    models/nin.lua of szagoruyko/wide-residual-networks; the original ends in a 1 x 1 convolution to class maps.

    The stages end before the pooling. Their features are 32, 16 and 8 pixels wide, like the stages of a wide ResNet,
    which they can be paired with.

    With width 1 and 10 classes it has 1,005,642 parameters with batch norm (1,004,042 without), like the teacher
    "NIN-wide", 1M, of Attention Transfer (arXiv 1612.03928, table 1); with width 0.5 it has 256,298 (255,498), like the
    student "NIN-thin", 0.2M. The paper gives no widths: the author's code has the wide network, and half its width for
    the thin one is our reading of the sizes. Convolutions with a norm have no bias, unlike in the author's code.

    Args:
        width: factor of all channels except the logits; need not be an integer.
        num_classes: length of the logits.
        batch_norm: put a norm after every convolution. Without norms, convolutions have biases, gradients of gradients
            are cheap, and an image's gradient depends on that image alone, as gradient transfer requires.
        dropout: dropout rate after each of the two poolings, in [0, 1); 0.5 in the original, which has no batch norm.
        relu_before_pooling: whether the first two groups end in a ReLU. The student without batch norm in Attention
            Transfer (section 4.1.3) has none there.

    Shape: images (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        InputError: the width is so small that a layer has no channels, or the dropout rate is outside [0, 1).
    """

    stage_names = ("group0", "group1", "group2")

    def __init__(
        self,
        width: float = 1.0,
        num_classes: int = 10,
        *,
        batch_norm: bool = True,
        dropout: float = 0.0,
        relu_before_pooling: bool = True,
    ) -> None:
        super().__init__()
        if not math.isfinite(width) or int(96 * width) < 1:
            raise InputError(f"a NIN has a width of at least 1/96, not {width}")
        check_interval("dropout", dropout, "[0, 1)")
        ins = 3
        for name, layers in zip(self.stage_names, _NIN_GROUPS, strict=True):
            group = nn.Sequential()
            for i, (size, channels) in enumerate(layers):
                outs = int(channels * width)
                group.add_module(f"conv{i}", nn.Conv2d(ins, outs, size, padding=size // 2, bias=not batch_norm))
                if batch_norm:
                    group.add_module(f"bn{i}", nn.BatchNorm2d(outs))
                if relu_before_pooling or i < len(layers) - 1 or name == self.stage_names[-1]:
                    group.add_module(f"relu{i}", nn.ReLU())
                ins = outs
            self.add_module(name, group)
        self.pool0 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.pool1 = nn.AvgPool2d(3, stride=2, ceil_mode=True)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(ins, num_classes)
        init_convolutions(self, "fan_in")
        # Without norms, the first steps at learning rate 0.1 would otherwise be too large to learn anything.
        init_classifier(self.fc)

    def forward(self, images: Tensor) -> Tensor:
        x = self.get_submodule("group0")(images)
        x = self.get_submodule("group1")(self.dropout(self.pool0(x)))
        x = self.get_submodule("group2")(self.dropout(self.pool1(x)))
        return self.fc(x.mean((2, 3)))


class SmallImageVGG(StagedNetwork):
    """VGG (Simonyan and Zisserman, arXiv 1409.1556) with batch norm and one linear layer.

    Five blocks have 64, 128, 256, 512 and 512 channels. A max pooling follows each of the first three blocks, so they
    run at full, half, quarter, eighth and eighth resolution. Depths 8 and 13 are vgg8 and vgg13 of
    HobbitLong/RepDistiller, and its published weights have the same names.

    Args:
        depth: 8, 11, 13, 16 or 19.
        num_classes: length of the logits.

    Shape: images (N, 3, H, W), H and W at least 8 -> logits (N, num_classes).

    Raises:
        InputError: there is no VGG of that depth.
    """

    stage_names = ("block0", "block1", "block2", "block3", "block4")

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        super().__init__()
        if depth not in _VGG_DEPTHS:
            raise InputError(f"a VGG for small images has a depth of {', '.join(map(str, _VGG_DEPTHS))}, not {depth}")
        channels = 3
        for name, outs, count in zip(self.stage_names, (64, 128, 256, 512, 512), _VGG_DEPTHS[depth], strict=True):
            block = nn.Sequential()
            for _ in range(count):
                block.extend([nn.Conv2d(channels, outs, 3, padding=1), nn.BatchNorm2d(outs), nn.ReLU()])
                channels = outs
            self.add_module(name, block)
        self.classifier = nn.Linear(channels, num_classes)
        init_convolutions(self)
        init_classifier(self.classifier)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
            if name in self.stage_names[:3]:
                x = F.max_pool2d(x, 2)
        return self.classifier(x.mean((2, 3)))
