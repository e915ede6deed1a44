"""VGG (Simonyan and Zisserman, arXiv 1409.1556) for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import InputError

# Depth -> convolutions per block.
_DEPTHS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class SmallImageVGG(nn.Module):
    """VGG with batch norm and one linear layer, in five blocks of 64, 128, 256, 512 and 512 channels.

    A max pooling follows each of the first three, so that the blocks are at full, half, quarter, eighth and eighth
    resolution. Its weights have the names of those published with HobbitLong/RepDistiller, whose vgg8 and vgg13 these
    are.

    Args:
        depth: 8, 11, 13, 16 or 19.
        num_classes: length of the logits.

    Shape: images (N, 3, H, W), H and W at least 8 -> logits (N, num_classes).

    Raises:
        InputError: another depth.
    """

    stage_names = ("block0", "block1", "block2", "block3", "block4")

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        super().__init__()
        if depth not in _DEPTHS:
            raise InputError(f"a VGG for small images has a depth of {', '.join(map(str, _DEPTHS))}, not {depth}")
        channels = 3
        for name, outs, count in zip(self.stage_names, (64, 128, 256, 512, 512), _DEPTHS[depth], strict=True):
            block = nn.Sequential()
            for _ in range(count):
                block.extend([nn.Conv2d(channels, outs, 3, padding=1), nn.BatchNorm2d(outs), nn.ReLU()])
                channels = outs
            self.add_module(name, block)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
            if name in self.stage_names[:3]:
                x = F.max_pool2d(x, 2)
        return self.classifier(x.mean((2, 3)))
