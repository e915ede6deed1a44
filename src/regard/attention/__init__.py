"""Attention modules: one idea, `x * gate(logits(x))`, in any network.

layer = attention.create("se", 256, gate=attention.SubAttention(order=1))
attention.attach(model, "shuffle", stages=(3, 4))
"""

from regard.attention.attach import AttentionSlot, attach, detach
from regard.attention.gated import ChannelAttention, GatedAttention
from regard.attention.gates import Gate, Sigmoid, SubAttention, parse_gate
from regard.attention.modules import ShuffleAttention, SqueezeExcitation
from regard.attention.registry import create, names, register

__all__ = [
    "AttentionSlot",
    "ChannelAttention",
    "Gate",
    "GatedAttention",
    "ShuffleAttention",
    "Sigmoid",
    "SqueezeExcitation",
    "SubAttention",
    "attach",
    "create",
    "detach",
    "names",
    "parse_gate",
    "register",
]
