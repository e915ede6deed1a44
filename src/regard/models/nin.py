"""Network in Network (Lin, Chen and Yan, arXiv 1312.4400) for small images, as Attention Transfer's author has it."""

from __future__ import annotations

import math

from torch import Tensor, nn

from regard.errors import InputError

# (kernel size, channels) of the convolutions of the wide network, group by group.
_GROUPS = (
    ((5, 192), (1, 160), (1, 96)),
    ((5, 192), (1, 192), (1, 192)),
    ((3, 192), (1, 192), (1, 192)),
)


class NIN(nn.Module):
    """A plain network of three groups of convolutions, at full, half and quarter resolution, without shortcuts.

    Each group is a convolution of 5 x 5 or 3 x 3 pixels and two of 1 x 1, each with norm and ReLU. Between the groups
    are a max and an average pooling of 3 x 3 with stride 2 and `ceil_mode`, so 32 pixels become 16 and 8. The mean over
    all pixels and a linear layer follow. So the network is in models/nin.lua of szagoruyko/wide-residual-networks, by
    the author of Attention Transfer; the original ends in a 1 x 1 convolution to class maps.

    The stages end before the pooling: features there are 32, 16 and 8 pixels wide, like those of the stages of a wide
    ResNet, so the stages can be paired.

    With width 1 and 10 classes it has 1,005,642 parameters with batch norm (1,004,042 without), as the teacher
    "NIN-wide", 1M, of Attention Transfer (arXiv 1612.03928, table 1); with width 0.5 it has 256,298 (255,498), as the
    student "NIN-thin", 0.2M. The paper gives no widths: those of the wide network are its author's, and half of them
    for the thin one is our reading of the sizes. Beside a norm, convolutions have no bias, which the author's have.

    Args:
        width: factor of all channels but the logits; need not be an integer.
        num_classes: length of the logits.
        batch_norm: a norm after every convolution. Without it, convolutions have biases; gradients of gradients are
            then cheap, and an image's gradient depends on that image alone, as gradient transfer requires.
        dropout: after each of the two poolings, in [0, 1); 0.5 in the original, which has no batch norm.
        relu_before_pooling: whether the first two groups end in a ReLU. In Attention Transfer (section 4.1.3) the
            student without batch norm has none there.

    Shape: images (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        InputError: a width that leaves a layer no channel, or a dropout outside [0, 1).
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
        if not 0 <= dropout < 1:
            raise InputError(f"dropout is {dropout}; it has to be in [0, 1)")
        ins = 3
        for name, layers in zip(self.stage_names, _GROUPS, strict=True):
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
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Small: without norms, the first steps at learning rate 0.1 would otherwise be too large to learn anything.
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.get_submodule("group0")(images)
        x = self.get_submodule("group1")(self.dropout(self.pool0(x)))
        x = self.get_submodule("group2")(self.dropout(self.pool1(x)))
        return self.fc(x.mean((2, 3)))
