"""The blocks of known networks: where the branch ends that each adds, or concatenates, to what it was given.

A network of other blocks is made known by deriving them from `AttentionSlot`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from regard.with_attention import without_attention


class AttentionSlot:
    """Mixin of residual blocks that have a place for attention at the end of their residual branch.

    Such a block passes its branch through `attention` unless that is None.

    Attributes:
        branch_end: the names of the last layers of the branch, in order, separated by spaces: "conv3 bn3".
    """

    attention: nn.Module | None
    branch_end: ClassVar[str]


# Class -> the last layers of the branch, before layer scale, drop path and addition. A number counts the children of a
# Sequential, from the end where it is negative.
_RESIDUAL = {
    "timm.models._efficientnet_blocks.DepthwiseSeparableConv": "conv_pw bn2",
    "timm.models._efficientnet_blocks.EdgeResidual": "conv_pwl bn2",
    "timm.models._efficientnet_blocks.InvertedResidual": "conv_pwl bn3",
    "timm.models._efficientnet_blocks.MobileAttention": "attn.output.proj",
    "timm.models._efficientnet_blocks.UniversalInvertedResidual": "pw_proj.conv pw_proj.bn",
    "timm.models.byobnet.BasicBlock": "conv2_kxk.conv conv2_kxk.bn",
    "timm.models.byobnet.BottleneckBlock": "conv3_1x1.conv conv3_1x1.bn",
    "timm.models.convnext.ConvNeXtBlock": "mlp.fc2",
    "timm.models.cspnet.BottleneckBlock": "conv3.conv conv3.bn",
    "timm.models.cspnet.DarkBlock": "conv2.conv conv2.bn",
    "timm.models.cspnet.EdgeBlock": "conv2.conv conv2.bn",
    "timm.models.cspnext.CspNextBlock": "conv2.pointwise_conv.conv conv2.pointwise_conv.bn",
    "timm.models.dla.DlaBasic": "conv2 bn2",
    "timm.models.dla.DlaBottle2neck": "conv3 bn3",
    "timm.models.dla.DlaBottleneck": "conv3 bn3",
    "timm.models.edgenext.ConvBlock": "mlp.fc2",
    "timm.models.edgenext.SplitTransposeBlock": "mlp.fc2",
    "timm.models.efficientformer_v2.EfficientFormerV2Block": "mlp.fc2.conv mlp.fc2.bn",
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
    "timm.models.regnet.Bottleneck": "conv3.conv conv3.bn",
    "timm.models.regnet.PreBottleneck": "conv3",
    "timm.models.repghost.RepGhostBottleneck": "ghost2",
    "timm.models.repvit.RepViTBlock": "channel_mixer.conv2",
    "timm.models.repvit.RepVitDownsample": "ffn.conv2",
    "timm.models.res2net.Bottle2neck": "conv3 bn3",
    "timm.models.resnest.ResNestBottleneck": "conv3 bn3",
    "timm.models.resnet.BasicBlock": "conv2 bn2",
    "timm.models.resnet.Bottleneck": "conv3 bn3",
    "timm.models.resnetv2.PreActBasic": "conv2",
    "timm.models.resnetv2.PreActBottleneck": "conv3",
    "timm.models.rexnet.LinearBottleneck": "conv_pwl.conv conv_pwl.bn",
    "timm.models.senet.Bottleneck": "conv3 bn3",
    "timm.models.senet.SEResNetBlock": "conv2 bn2",
    "timm.models.sknet.SelectiveKernelBasic": "conv2.conv conv2.bn",
    "timm.models.sknet.SelectiveKernelBottleneck": "conv3.conv conv3.bn",
    "timm.models.starnet.Block": "dwconv2.conv",
    "timm.models.swiftformer.Block": "linear.fc2",
    "timm.models.swiftformer.ConvEncoder": "pwconv2",
    "timm.models.tiny_vit.MBConv": "conv3",
    "timm.models.tresnet.BasicBlock": "conv2.conv conv2.bn",
    "timm.models.tresnet.Bottleneck": "conv3.conv conv3.bn",
    "timm.models.xception.Block": "rep.-1",
    "timm.models.xception_aligned.PreXceptionModule": "stack.conv3.conv_pw",
    "timm.models.xception_aligned.XceptionModule": "stack.conv3.conv_pw stack.conv3.bn_pw",
    "torchvision.models.convnext.CNBlock": "block.5",
    "torchvision.models.efficientnet.FusedMBConv": "block.-1.0 block.-1.1",
    "torchvision.models.efficientnet.MBConv": "block.-1.0 block.-1.1",
    "torchvision.models.mnasnet._InvertedResidual": "layers.-2 layers.-1",
    "torchvision.models.mobilenetv2.InvertedResidual": "conv.-2 conv.-1",
    "torchvision.models.mobilenetv3.InvertedResidual": "block.-1.0 block.-1.1",
    "torchvision.models.regnet.ResBottleneckBlock": "f.c.0 f.c.1",
    "torchvision.models.resnet.BasicBlock": "conv2 bn2",
    "torchvision.models.resnet.Bottleneck": "conv3 bn3",
}
# Class -> the last layers of what it computes new, if it does not add that but concatenates it; "" is the whole block.
_OTHERS = {
    "timm.models.byobnet.MobileOneBlock": "",
    "timm.models.byobnet.RepVggBlock": "",
    "timm.models.densenet.DenseLayer": "conv2",
    "timm.models.vovnet.OsaBlock": "conv_concat.conv conv_concat.bn",
    "torchvision.models.densenet._DenseLayer": "conv2",
    "torchvision.models.shufflenetv2.InvertedResidual": "branch2.-3 branch2.-2 branch2.-1",
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
        layers: the last layers of it, as (name in the block, layer), in order; the last may be the block itself.
        residual: whether it is added to the shortcut.
        slot: the attribute of the block that is kept for attention behind it, if there is one.
    """

    layers: tuple[tuple[str, nn.Module], ...]
    residual: bool
    slot: str | None


def branch_of(block: nn.Module) -> Branch | None:
    """The branch of a block, or None if it is no block that is known."""
    if isinstance(block, AttentionSlot):
        return Branch(_layers(block, block.branch_end), True, "attention")
    for kind in _classes(block):
        if kind in _RESIDUAL:
            return Branch(_layers(block, _RESIDUAL[kind]), True, _SLOTS.get(kind))
        if kind in _OTHERS:
            return Branch(_layers(block, _OTHERS[kind]), False, None)
    return None


def is_block(module: nn.Module) -> bool:
    """Whether `module` is a block that is known."""
    known = (_RESIDUAL, _OTHERS)
    return isinstance(module, AttentionSlot) or any(kind in table for kind in _classes(module) for table in known)


def is_dense(stage: nn.Module) -> bool:
    """Whether `stage` concatenates what its blocks give, so that its output is not that of its last block."""
    return any(kind in _DENSE for kind in _classes(stage))


def _classes(module: nn.Module) -> list[str]:
    """The classes of `module`, by name: networks of packages that are not there need no import."""
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__]


def _layers(block: nn.Module, paths: str) -> tuple[tuple[str, nn.Module], ...]:
    return tuple(_layer(block, path) for path in paths.split()) or (("", block),)


def _layer(block: nn.Module, path: str) -> tuple[str, nn.Module]:
    names, layer = [], block
    for part in path.split("."):
        name = list(layer._modules)[int(part)] if part.startswith("-") else part
        names.append(name)
        layer = without_attention(layer.get_submodule(name))
    return ".".join(names), layer
