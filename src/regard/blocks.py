"""The blocks of known networks, and the layer at the end of each block's branch, whose output attention modulates.

Derive the blocks of any other network from `AttentionSlot`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from regard.with_attention import without_attention


class AttentionSlot:
    """Mixin for residual blocks with a slot for attention at the end of their residual branch.

    The block passes the output of its branch through `apply_attention`.

    Attributes:
        branch_end: the name of the last layer of the branch, such as "bn3", which determines the number of channels.
    """

    attention: nn.Module | None
    branch_end: ClassVar[str]

    def apply_attention(self, x: Tensor) -> Tensor:
        """The output of `attention` for the features `x` (N, C, H, W); `x` itself if `attention` is None."""
        return x if self.attention is None else self.attention(x)


# Class -> the last layer of the residual branch, before layer scale, drop path and addition. A number is the index of a
# child of a Sequential; negative numbers count from the end.
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
# Class -> the last layer of the branch, for blocks that do not add it to a shortcut; "" is the block itself.
_NOT_RESIDUAL = {
    "timm.models.byobnet.MobileOneBlock": "",
    "timm.models.byobnet.RepVggBlock": "",
    "timm.models.densenet.DenseLayer": "conv2",
    "timm.models.vovnet.OsaBlock": "conv_concat.bn",
    "torchvision.models.densenet._DenseLayer": "conv2",
    "torchvision.models.shufflenetv2.InvertedResidual": "branch2.-1",
    "torchvision.models.squeezenet.Fire": "",
}
# Class -> the attribute reserved for attention.
_SLOTS = {"timm.models.resnet.BasicBlock": "se", "timm.models.resnet.Bottleneck": "se"}
# Stages that concatenate the outputs of their blocks.
_DENSE = {"timm.models.densenet.DenseBlock", "torchvision.models.densenet._DenseBlock"}


@dataclass(frozen=True)
class Branch:
    """The branch of a block.

    Attributes:
        path: the name of its last layer in the block; "" is the block itself.
        layer: that layer.
        residual: whether its output is added to a shortcut.
        slot: the block's attribute for attention behind the branch, if it has one.
    """

    path: str
    layer: nn.Module
    residual: bool
    slot: str | None


def branch_of(block: nn.Module) -> Branch | None:
    """The branch of `block`, or None if its class is not a known block."""
    if isinstance(block, AttentionSlot):
        return Branch(*_find_layer(block, block.branch_end), True, "attention")
    for name in _class_names(block):
        for table in (_RESIDUAL, _NOT_RESIDUAL):
            if name in table:
                return Branch(*_find_layer(block, table[name]), table is _RESIDUAL, _SLOTS.get(name))
    return None


def is_dense(stage: nn.Module) -> bool:
    """Whether `stage` concatenates the outputs of its blocks, so that its output differs from its last block's."""
    return any(name in _DENSE for name in _class_names(stage))


def _class_names(module: nn.Module) -> list[str]:
    """The full names of the class of `module` and its bases, so that no network package has to be imported."""
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__]


def _find_layer(block: nn.Module, path: str) -> tuple[str, nn.Module]:
    names, layer = [], block
    for part in path.split(".") if path else ():
        name = list(layer._modules)[int(part)] if part.startswith("-") else part
        names.append(name)
        layer = without_attention(layer.get_submodule(name))
    return ".".join(names), layer
