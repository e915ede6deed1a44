"""What attention modules do to whole feature maps, each in as few passes over memory as can be.

Every function here is given plainly in torch, which is its definition, and may have faster versions beside it.
"""

from regard.attention.ops.channel import Statistic, channel_gated, plane_statistics

__all__ = ["Statistic", "channel_gated", "plane_statistics"]
