"""The CUDA kernels in Triton, compiled at first use.

Each file contains the launches and kernels of an operation and its gradient. All kernels are limited by memory
bandwidth, so their time depends on how often they read features. One program computes each element of a result, in a
fixed order: equal inputs give bitwise equal results. `benchmarks/triton_registers.py` prints register counts.

Memory traffic in copies of the features (one read and one write), forward + backward::

    shuffle and group gate      1 + 1.5     read x, write y; read g and x, write dx
    combine                     1 + 1.5     with gradients of channel factors; 1 + 2.5 with pixel factors
    statistics                  0.5
"""

import torch

from regard.attention.kernels.triton.combine import combine, combine_backward
from regard.attention.kernels.triton.group_gate import group_gate, group_gate_backward
from regard.attention.kernels.triton.reduce import channel_statistics, pixel_statistics
from regard.attention.kernels.triton.shuffle_gate import shuffle_gate, shuffle_gate_backward

__all__ = [
    "DTYPES",
    "SMALL",
    "channel_statistics",
    "combine",
    "combine_backward",
    "group_gate",
    "group_gate_backward",
    "pixel_statistics",
    "shuffle_gate",
    "shuffle_gate_backward",
]

DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32})
SMALL = 1 << 20  # with fewer elements, a launch from Python takes as long as several launches of torch
