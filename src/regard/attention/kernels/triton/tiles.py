"""Tiles of features in memory: their sizes, their offsets, and launches over them.

A program processes tiles of TC channels x TP pixels of one image with C channels and P = H W pixels. LAST is true for
features that are channels last. V is a power of two that divides the stride of the rows of a tile (P, or channels last
C), so that the compiler can use their alignment. Offsets within an image have 32 bits.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

THREADS = 256  # per program; with more, a thread has fewer than 255 registers
SECTOR = 32  # bytes, the smallest memory access; channels last, a tile has at least that many bytes per pixel


def is_last(x: Tensor) -> bool:
    """Whether features are channels last and not contiguous."""
    return not x.is_contiguous()


def tile(x: Tensor, rows: int = 1, per_thread: int = 8) -> tuple[int, int]:
    """TC and TP, powers of two that depend only on the shape, so that equal inputs give bitwise equal results.

    Args:
        rows: the minimum of TC, if there are that many channels.
        per_thread: elements per thread; at most 4 if a thread has several rows, for each of which it keeps values.
    """
    channels, pixels = triton.next_power_of_2(x.shape[1]), triton.next_power_of_2(x.shape[2] * x.shape[3])
    elements = THREADS * (4 if is_last(x) or x.shape[2] * x.shape[3] % 8 else per_thread)
    rows = min(channels, max(rows, SECTOR // x.element_size() if is_last(x) else 1))
    pixels = min(pixels, elements // rows)
    return min(channels, elements // pixels), pixels


def launch(kernel: Any, programs: int, x: Tensor, *tensors: Tensor | None, stride: int = 0, **kwargs: Any) -> None:
    """Runs a kernel on features `x`.

    Args:
        programs: the number of programs per image.
        tensors: the first argument of the kernel; `kwargs` are further arguments.
        stride: the stride of rows, if it is neither P nor C.
    """
    c, p, last = x.shape[1], x.shape[2] * x.shape[3], is_last(x)
    if c * p >= 2**31:
        raise OverflowError(f"images of {c * p} elements are too large for offsets of 32 bits")
    elements = kwargs["TC"] * kwargs["TP"] * kwargs.get("TG", 1)
    with torch.cuda.device_of(x):
        kernel[(len(x) * programs,)](
            tensors,
            C=c,
            P=p,
            V=gcd(stride or (c if last else p), 16),
            LAST=last,
            num_warps=max(1, min(THREADS, elements // 4) // 32),
            **kwargs,
        )


def over_pixels(kernel: Any, x: Tensor, *tensors: Tensor | None, **kwargs: Any) -> None:
    """Runs a kernel in which each program processes all pixels of some channels."""
    tc, tp = tile(x)
    launch(kernel, triton.cdiv(x.shape[1], tc), x, *tensors, TC=tc, TP=tp, **kwargs)


def small(x: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An empty tensor for sums and statistics of `x`."""
    return x.new_empty(shape, dtype=dtype)


@triton.jit
def image(C, P, V: tl.constexpr, LAST: tl.constexpr):
    """C and P, of which one is a multiple of V as far as the compiler can tell."""
    if LAST:
        return C // V * V, P
    else:
        return C, P // V * V


@triton.jit
def block(size, T: tl.constexpr):
    """The image of this program, and the indices of its T channels or pixels out of `size`."""
    blocks, program = tl.cdiv(size, T), tl.program_id(0)
    return (program // blocks).to(tl.int64), program % blocks * T + tl.arange(0, T)


@triton.jit
def offsets(c, p, C, P, LAST: tl.constexpr):
    """The offsets of channels c and pixels p, which broadcast, from the start of the image."""
    if LAST:
        return p * C + c
    else:
        return c * P + p


@triton.jit
def load(pointer, index, mask):
    """Values in float32, 0 where the mask is false."""
    return tl.load(pointer + index, mask=mask, other=0.0).to(tl.float32)
