"""The attention modules, one a file; importing this registers them all."""

from regard.attention.modules.se import SqueezeExcitation
from regard.attention.modules.shuffle import ShuffleAttention

__all__ = ["ShuffleAttention", "SqueezeExcitation"]
