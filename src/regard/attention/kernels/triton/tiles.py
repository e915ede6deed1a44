"""Tiles of features in memory: how large they are, where they lie, and launches over them.

A program works on tiles of TC channels x TP pixels of one image of C channels and P = H W pixels. LAST says that the
features are channels last. V is a power of two that divides the distance of the rows of a tile (P, or channels last C),
so that the compiler knows how they are aligned. Offsets within an image have 32 bits.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

THREADS = 256  # of a program; with more, a thread has fewer than 255 registers
SECTOR = 32  # bytes, the least that is read from memory: channels last, a tile has at least so many of channels


def is_last(x: Tensor) -> bool:
    """Whether features are channels last, and not contiguous."""
    return not x.is_contiguous()


def tile(x: Tensor, rows: int = 1, each: int = 8) -> tuple[int, int]:
    """TC and TP, powers of two; from the shape alone, so that equal input gives equal bits.

    Args:
        rows: TC is at least that, if there are so many channels.
        each: elements for a thread; 4 at most where it has several rows, and keeps values for each of them.
    """
    channels, pixels = triton.next_power_of_2(x.shape[1]), triton.next_power_of_2(x.shape[2] * x.shape[3])
    elements = THREADS * (4 if is_last(x) or x.shape[2] * x.shape[3] % 8 else each)
    rows = min(channels, max(rows, SECTOR // x.element_size() if is_last(x) else 1))
    pixels = min(pixels, elements // rows)
    return min(channels, elements // pixels), pixels


def launch(kernel: Any, programs: int, x: Tensor, *tensors: Tensor | None, stride: int = 0, **more: Any) -> None:
    """Runs a kernel on features `x`.

    Args:
        programs: for each image.
        tensors: the first argument of the kernel; `more` are others by name.
        stride: the distance of rows, if it is neither P nor C.
    """
    c, p, last = x.shape[1], x.shape[2] * x.shape[3], is_last(x)
    if c * p >= 2**31:
        raise OverflowError(f"images of {c * p} elements are too large for offsets of 32 bits")
    elements = more["TC"] * more["TP"] * more.get("TG", 1)
    with torch.cuda.device_of(x):
        kernel[(len(x) * programs,)](
            tensors,
            C=c,
            P=p,
            V=gcd(stride or (c if last else p), 16),
            LAST=last,
            num_warps=max(1, min(THREADS, elements // 4) // 32),
            **more,
        )


def over_pixels(kernel: Any, x: Tensor, *tensors: Tensor | None, **more: Any) -> None:
    """Runs a kernel whose programs go through the pixels of some channels each."""
    tc, tp = tile(x)
    launch(kernel, triton.cdiv(x.shape[1], tc), x, *tensors, TC=tc, TP=tp, **more)


def small(x: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An empty tensor, for sums and statistics of `x`."""
    return x.new_empty(shape, dtype=dtype)


@triton.jit
def image(C, P, V: tl.constexpr, LAST: tl.constexpr):
    """C and P, one of them now a multiple of V in the eyes of the compiler."""
    if LAST:
        return C // V * V, P
    else:
        return C, P // V * V


@triton.jit
def block(size, T: tl.constexpr):
    """The image of this program, and which T of `size` channels or pixels it has."""
    blocks, program = tl.cdiv(size, T), tl.program_id(0)
    return (program // blocks).to(tl.int64), program % blocks * T + tl.arange(0, T)


@triton.jit
def offsets(c, p, C, P, LAST: tl.constexpr):
    """Of channels and pixels, ready to broadcast, from the start of the image."""
    if LAST:
        return p * C + c
    else:
        return c * P + p


@triton.jit
def load(pointer, at, mask):
    """Values as they are summed, 0 outside."""
    return tl.load(pointer + at, mask=mask, other=0.0).to(tl.float32)
