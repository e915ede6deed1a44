"""The operations that attention modules run on feature maps, each in few passes over memory, forward and backward.

Each is a custom operator of torch, `torch.ops.regard.…`, defined by its formula in `functional`, with kernels for CPUs
in C++, built at first use, and for GPUs in Triton. The operators are differentiable, twice if the formula is, and work
with `torch.compile`, `torch.export`, `torch.fx` and `torch.func`.
"""

from regard.attention.kernels.combine import add, scale
from regard.attention.kernels.gates import group_gate, shuffle_gate
from regard.attention.kernels.operation import backend, in_reference, reference
from regard.attention.kernels.statistics import (
    channel_mean,
    channel_mean_max,
    channel_mean_variance,
    context,
    pixel_mean_max,
    strip_means,
)

__all__ = [
    "add",
    "backend",
    "channel_mean",
    "channel_mean_max",
    "channel_mean_variance",
    "context",
    "group_gate",
    "in_reference",
    "pixel_mean_max",
    "reference",
    "scale",
    "shuffle_gate",
    "strip_means",
]
