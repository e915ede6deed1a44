"""What attention modules do to whole feature maps, each in as few passes over memory as can be.

Every function here is given plainly in torch, which is its definition, and has kernels beside it: for processors in
C++, built when first needed, and for GPUs in Triton. They are differentiable, twice where the formula is.
"""

from regard.attention.ops.channel import Statistic, channel_gated, plane_statistics
from regard.attention.ops.choice import backend, reference
from regard.attention.ops.context import context, context_added, context_scaled
from regard.attention.ops.cross import cross_gated, cross_statistics
from regard.attention.ops.group import group_gated, group_logits
from regard.attention.ops.place import channel_place_gated, place_statistics
from regard.attention.ops.plane import plane_gated, plane_logits

__all__ = [
    "Statistic",
    "backend",
    "channel_gated",
    "channel_place_gated",
    "context",
    "context_added",
    "context_scaled",
    "cross_gated",
    "cross_statistics",
    "group_gated",
    "group_logits",
    "place_statistics",
    "plane_gated",
    "plane_logits",
    "plane_statistics",
    "reference",
]
