"""What attention modules do to whole feature maps, each in few passes over memory, forward and backward.

Each is an operation of torch's dispatcher, `torch.ops.regard.…`, defined by its formula in `functional`, and with
kernels beside it: for processors in C++, built when first needed, and for GPUs in Triton. They are differentiable,
twice where the formula is, and known to `torch.compile`, `torch.export`, `torch.fx` and `torch.func`.
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
