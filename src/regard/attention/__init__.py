"""Attention modules: one idea, `x * gate(logits(x))`, in any network::

    layer = attention.create("se", 256, gate=attention.SubAttention(order=1))
    attention.attach(model, "shuffle", stages=(3, 4))

Each of the fifteen modules takes any gate. `attach` inserts them into networks of timm and torchvision, and your own.
"""

from regard.attention.attach import PlacementWarning, attach, attached, detach
from regard.attention.fold import fold
from regard.attention.gated import ChannelAttention, GatedAttention
from regard.attention.gates import Gate, HardSigmoid, Sigmoid, SubAttention, parse_gate
from regard.attention.insertion_points import InsertionPoint, insertion_points
from regard.attention.modules.bam import BottleneckAttention
from regard.attention.modules.cbam import ConvolutionalBlockAttention
from regard.attention.modules.coord import CoordinateAttention
from regard.attention.modules.dia import DIA
from regard.attention.modules.eca import EfficientChannelAttention
from regard.attention.modules.ese import EffectiveSqueezeExcitation
from regard.attention.modules.gc import GlobalContext
from regard.attention.modules.ge import GatherExcite
from regard.attention.modules.se import SqueezeExcitation
from regard.attention.modules.sge import SpatialGroupEnhance
from regard.attention.modules.shuffle import ShuffleAttention
from regard.attention.modules.simam import SimAM
from regard.attention.modules.spa import SpatialPyramidAttention
from regard.attention.modules.srm import StyleRecalibration
from regard.attention.modules.triplet import TripletAttention
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
