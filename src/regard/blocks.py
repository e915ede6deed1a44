"""The blocks of known networks: where the branch ends that each adds, or concatenates, to what it was given.

A network of other blocks is made known by deriving them from `AttentionSlot`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from regard.with_attention import without_attention


class AttentionSlot:
    """Mixin of residual blocks that have a slot for attention at the end of their residual branch.

    Such a block passes its branch through `attention` unless that is None.

    Attributes:
        branch_end: the name of the last layer of the branch, such as "bn3"; it tells the channels that arrive there.
    """

    attention: nn.Module | None
    branch_end: ClassVar[str]


# Class -> the last layer of the branch, before layer scale, drop path and addition. A number counts the children of a
# Sequential, from the end where it is negative.
_RESIDUAL = {
    "timm.models._efficientnet_blocks.DepthwiseSeparableConv": "bn2",
    "timm.models._efficientnet_blocks.EdgeResidual": "bn2",
    "timm.models._efficientnet_blocks.InvertedResidual": "bn3",
    "timm.models._efficientnet_blocks.MobileAttention": "attn.output.proj",
    "timm.models._efficientnet_blocks.UniversalInvertedResidual": "pw_proj.bn",
    "timm.models.byobnet.BasicBlock": "conv2_kxk.bn",
    "timm.models.byobnet.BottleneckBlock": "conv3_1x1.bn",
    "timm.models.convnext.ConvNeXtBlock": "mlp.fc2",
    "timm.models.cspnet.BottleneckBlock": "conv3.bn",
    "timm.models.cspnet.DarkBlock": "conv2.bn",
    "timm.models.cspnet.EdgeBlock": "conv2.bn",
    "timm.models.cspnext.CspNextBlock": "conv2.pointwise_conv.bn",
    "timm.models.dla.DlaBasic": "bn2",
    "timm.models.dla.DlaBottle2neck": "bn3",
    "timm.models.dla.DlaBottleneck": "bn3",
    "timm.models.edgenext.ConvBlock": "mlp.fc2",
    "timm.models.edgenext.SplitTransposeBlock": "mlp.fc2",
    "timm.models.efficientformer_v2.EfficientFormerV2Block": "mlp.fc2.bn",
    "timm.models.fasternet.MLPBlock": "mlp.-1",
    "timm.models.fastvit.AttentionBlock": "mlp.fc2",
    "timm.models.fastvit.RepMixerBlock": "mlp.fc2",
    "timm.models.ghostnet.GhostBottleneck": "ghost2",
    "timm.models.ghostnet.GhostBottleneckV3": "ghost2",
    "timm.models.hgnet.HighPerfGpuBlock": "aggregation.-1",
    "timm.models.inception_next.MetaNeXtBlock": "mlp.fc2",
    "timm.models.mambaout.GatedConvBlock": "fc2",
    "timm.models.maxxvit.MbConvBlock": "conv3_1x1",
    "timm.models.nextvit.NextConvBlock": "mlp.fc2",
    "timm.models.nextvit.NextTransformerBlock": "mlp.fc2",
    "timm.models.nfnet.NormFreeBlock": "conv3",
    "timm.models.regnet.Bottleneck": "conv3.bn",
    "timm.models.regnet.PreBottleneck": "conv3",
    "timm.models.repghost.RepGhostBottleneck": "ghost2",
    "timm.models.repvit.RepViTBlock": "channel_mixer.conv2",
    "timm.models.repvit.RepVitDownsample": "ffn.conv2",
    "timm.models.res2net.Bottle2neck": "bn3",
    "timm.models.resnest.ResNestBottleneck": "bn3",
    "timm.models.resnet.BasicBlock": "bn2",
    "timm.models.resnet.Bottleneck": "bn3",
    "timm.models.resnetv2.PreActBasic": "conv2",
    "timm.models.resnetv2.PreActBottleneck": "conv3",
    "timm.models.rexnet.LinearBottleneck": "conv_pwl.bn",
    "timm.models.senet.Bottleneck": "bn3",
    "timm.models.senet.SEResNetBlock": "bn2",
    "timm.models.sknet.SelectiveKernelBasic": "conv2.bn",
    "timm.models.sknet.SelectiveKernelBottleneck": "conv3.bn",
    "timm.models.starnet.Block": "dwconv2.conv",
    "timm.models.swiftformer.Block": "linear.fc2",
    "timm.models.swiftformer.ConvEncoder": "pwconv2",
    "timm.models.tiny_vit.MBConv": "conv3",
    "timm.models.tresnet.BasicBlock": "conv2.bn",
    "timm.models.tresnet.Bottleneck": "conv3.bn",
    "timm.models.xception.Block": "rep.-1",
    "timm.models.xception_aligned.PreXceptionModule": "stack.conv3.conv_pw",
    "timm.models.xception_aligned.XceptionModule": "stack.conv3.bn_pw",
    "torchvision.models.convnext.CNBlock": "block.5",
    "torchvision.models.efficientnet.FusedMBConv": "block.-1.1",
    "torchvision.models.efficientnet.MBConv": "block.-1.1",
    "torchvision.models.mnasnet._InvertedResidual": "layers.-1",
    "torchvision.models.mobilenetv2.InvertedResidual": "conv.-1",
    "torchvision.models.mobilenetv3.InvertedResidual": "block.-1.1",
    "torchvision.models.regnet.ResBottleneckBlock": "f.c.1",
    "torchvision.models.resnet.BasicBlock": "bn2",
    "torchvision.models.resnet.Bottleneck": "bn3",
}
# Class -> the last layer of what it computes new, where that is not added; "" is the whole block.
_OTHERS = {
    "timm.models.byobnet.MobileOneBlock": "",
    "timm.models.byobnet.RepVggBlock": "",
    "timm.models.densenet.DenseLayer": "conv2",
    "timm.models.vovnet.OsaBlock": "conv_concat.bn",
    "torchvision.models.densenet._DenseLayer": "conv2",
    "torchvision.models.shufflenetv2.InvertedResidual": "branch2.-1",
    "torchvision.models.squeezenet.Fire": "",
}
# Class -> the attribute that it keeps for attention.
_SLOTS = {"timm.models.resnet.BasicBlock": "se", "timm.models.resnet.Bottleneck": "se"}
# Blocks of these give the features they were given as well; what they compute new is a part of the stage's output.
_DENSE = {"timm.models.densenet.DenseBlock", "torchvision.models.densenet._DenseBlock"}


@dataclass(frozen=True)
class Branch:
    """The branch of a block.

    Attributes:
        path: the name in the block of the last layer of it; "" is the block itself.
        layer: that layer.
        residual: whether it is added to the shortcut.
        slot: the attribute of the block that is kept for attention behind it, if there is one.
    """

    path: str
    layer: nn.Module
    residual: bool
    slot: str | None


def branch_of(block: nn.Module) -> Branch | None:
    """The branch of a block, or None if it is no block that is known."""
    if isinstance(block, AttentionSlot):
        return Branch(*_layer(block, block.branch_end), True, "attention")
    for kind in _classes(block):
        for table in (_RESIDUAL, _OTHERS):
            if kind in table:
                return Branch(*_layer(block, table[kind]), table is _RESIDUAL, _SLOTS.get(kind))
    return None


def is_dense(stage: nn.Module) -> bool:
    """Whether `stage` concatenates what its blocks give, so that its output is not that of its last block."""
    return any(kind in _DENSE for kind in _classes(stage))


def _classes(module: nn.Module) -> list[str]:
    """The classes of `module`, by name: networks of packages that are not there need no import."""
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__]


def _layer(block: nn.Module, path: str) -> tuple[str, nn.Module]:
    names, layer = [], block
    for part in path.split(".") if path else ():
        name = list(layer._modules)[int(part)] if part.startswith("-") else part
        names.append(name)
        layer = without_attention(layer.get_submodule(name))
    return ".".join(names), layer
