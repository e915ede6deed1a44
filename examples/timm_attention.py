"""regard's attention in timm's networks: passed to timm's builder, or attached to a pretrained network.

python examples/timm_attention.py resnet18
"""

from __future__ import annotations

import argparse

import timm
import torch
from torch import nn

from regard import attention


def built_by_timm(name: str = "resnet18", **options: object) -> nn.Module:
    """A ResNet built by timm with LSAS-SE as the attention layer of its blocks."""
    layer = attention.layer("se", gate="sub-attention")
    return timm.create_model(name, block_args={"attn_layer": layer}, **options)


def in_place_of_se(name: str = "efficientnet_b0", **options: object) -> nn.Module:
    """An EfficientNet with efficient channel attention in place of squeeze-and-excitation."""
    return timm.create_model(name, se_layer=attention.layer("eca"), **options)


def trained_already(name: str = "resnet18", pretrained: bool = True, **options: object) -> nn.Module:
    """A pretrained network with attention in its last two stages, whose outputs are unchanged until the first step."""
    model = timm.create_model(name, pretrained=pretrained, **options)
    return attention.attach(model, "coord", stages=(3, 4), start="identity")


def main() -> None:
    parser = argparse.ArgumentParser(description="attention in a ResNet of timm")
    parser.add_argument("name", help="a ResNet of timm")
    model = built_by_timm(parser.parse_args().name, num_classes=10)
    print(model(torch.randn(1, 3, 64, 64)).shape)
    for name, module in model.named_modules():
        if isinstance(module, attention.SqueezeExcitation):
            print(name, module.channels, "channels")


if __name__ == "__main__":
    main()
