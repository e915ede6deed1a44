"""The kernels for GPUs, written in Triton and compiled for the device when an operation first runs on it.

All of them wait for memory, so what counts is how often features are read, in what order, and how much is under way.

**Tiles.** A program works on a tile of channels x places of one image. Where features are contiguous, the places of a
tile are neighbours in memory; where they are channels last, its channels are. The same kernels serve both: the compiler
sees which axis has stride 1 and lays the threads along it. `tiles.py` chooses the sides of a tile from the shape, the
dtype and the memory format alone, so that equal input gives equal bits, and nothing is tried out at run time. A tile
has about 4096 elements, 16 a thread: 8 KB of bfloat16, of which a multiprocessor holds several, enough to keep its
share of the memory busy. A large plane is a tile of its own (56 x 56 = 3136 in 4096 lanes, of which the idle ones move
nothing); of small planes there are many in one (7 x 7: 64 planes x 64 lanes).

**Statistics and their use.** The plane gate needs whole planes before it can write a place. While a plane, or 64 bytes
of channels last, fits the registers of one program (16384 elements), it is read once. A larger plane is read twice, the
second time, if it is not too large, from the second level cache: the programs that run at a time are neighbours in
memory. Channels last it takes 64 bytes of channels at a time to that end. Sums run elementwise over the tiles in
registers and over the tile once, at the end. Variances are taken from deviations: from the mean where the plane is in
registers, else from the mean of its first tile, from which the mean of the plane is not so far that digits are lost:
its squared distance is at most the variance times the number of tiles.

**The channel shuffle** takes channel j C/2 + i to 2 i + j. Contiguous planes are merely written elsewhere. Channels
last, that would be every second element of a line, so a program there takes the same channels of both halves and turns
them into pairs before it writes.

**Determinism.** Each element of each result is made by one program, in one order; there are no atomic operations.

**Floors**, in copies of the features (one read and one write), forward + backward:
    plane gate              1 + 1.5    reads x, writes y; reads g and x, writes dx
    channel gates           1.5 + 2    statistics, scale; dot (g, x), combine (g; half a copy more if it reads x)
    cross gate              1.5 + 2    the same
    group gate              1 + 1.5    while a group fits the registers of a program, else 2 + 2.5
    place gates (CBAM)      2 + 3      the statistics of planes and of places, scale; two dots, combine
    context gate            2 + 3      the logits, the pooling, the sum; its gradients
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from regard.attention.ops.gpu.launch import TritonKernels

_log = logging.getLogger("regard")


def load() -> TritonKernels | None:
    """The kernels; None, with a warning that says why, where Triton is missing or cannot compile for this GPU."""
    try:
        from regard.attention.ops.gpu.launch import TritonKernels

        kernels = TritonKernels()
        if torch.cuda.is_available():
            one = torch.ones(1, 1, 1, 1, device="cuda")
            kernels.plane_scale(one, one[0, 0])
    except Exception as error:  # whatever a compiler, a driver or an old GPU may raise
        _log.warning(
            "attention runs on torch's own operations, which are several times slower: Triton does not work here (%s)",
            str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
        )
        return None
    _log.info("attention runs on its own kernels for GPUs")
    return kernels
