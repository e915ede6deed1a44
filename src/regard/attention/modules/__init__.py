"""The attention modules, one per file; importing this package registers them all."""

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

__all__ = [
    "DIA",
    "BottleneckAttention",
    "ConvolutionalBlockAttention",
    "CoordinateAttention",
    "EffectiveSqueezeExcitation",
    "EfficientChannelAttention",
    "GatherExcite",
    "GlobalContext",
    "ShuffleAttention",
    "SimAM",
    "SpatialGroupEnhance",
    "SpatialPyramidAttention",
    "SqueezeExcitation",
    "StyleRecalibration",
    "TripletAttention",
]
