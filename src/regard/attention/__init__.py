"""Attention modules: one idea, `x * gate(logits(x))`, in any network.

layer = attention.create("se", 256, gate=attention.SubAttention(order=1))
attention.attach(model, "shuffle", stages=(3, 4))
"""

from regard.attention.attach import PlacementWarning, attach, attached, detach
from regard.attention.fold import fold
from regard.attention.gated import ChannelAttention, GatedAttention
from regard.attention.gates import Gate, HardSigmoid, Sigmoid, SubAttention, parse_gate
from regard.attention.insertion_points import InsertionPoint, insertion_points
from regard.attention.modules import (
    DIA,
    BottleneckAttention,
    ConvolutionalBlockAttention,
    CoordinateAttention,
    EffectiveSqueezeExcitation,
    EfficientChannelAttention,
    GatherExcite,
    GlobalContext,
    ShuffleAttention,
    SimAM,
    SpatialGroupEnhance,
    SpatialPyramidAttention,
    SqueezeExcitation,
    StyleRecalibration,
    TripletAttention,
)
from regard.attention.registry import create, layer, names, register
from regard.attention.start import IdentityStart
from regard.blocks import AttentionSlot
from regard.with_attention import WithAttention

__all__ = [
    "DIA",
    "AttentionSlot",
    "BottleneckAttention",
    "ChannelAttention",
    "ConvolutionalBlockAttention",
    "CoordinateAttention",
    "EffectiveSqueezeExcitation",
    "EfficientChannelAttention",
    "Gate",
    "GatedAttention",
    "GatherExcite",
    "GlobalContext",
    "HardSigmoid",
    "IdentityStart",
    "PlacementWarning",
    "ShuffleAttention",
    "Sigmoid",
    "SimAM",
    "InsertionPoint",
    "SpatialGroupEnhance",
    "SpatialPyramidAttention",
    "SqueezeExcitation",
    "StyleRecalibration",
    "SubAttention",
    "TripletAttention",
    "WithAttention",
    "attach",
    "attached",
    "create",
    "detach",
    "fold",
    "layer",
    "names",
    "parse_gate",
    "register",
    "insertion_points",
]
