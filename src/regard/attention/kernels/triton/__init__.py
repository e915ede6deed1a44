"""The operations on CUDA devices, written in Triton and compiled when an operation first runs on one.

One file an operation and its gradient: launches and kernels. All of them wait for memory, so what counts is how often
features are read. Each element of each result is made by one program, in one order: equal input gives equal bits.
`benchmarks/triton_registers.py` prints what the compiler makes of them.

Traffic in copies of the features (one read and one write), forward + backward::

    shuffle and group gate      1 + 1.5     read x, write y; read g and x, write dx
    combine                     1 + 1.5     with the factors' gradients; 1 + 2.5 with factors of pixels
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
SMALL = 1 << 20  # below so many elements, a launch from Python takes as long as several of torch's
