"""Where the tiles of features lie in memory. C and P are the channels and places of an image, TC and TP of a tile.

LAST says that the features are channels last; V is a power of two that divides C then, and P if not, so that rows of
the tile are known to be aligned. Offsets within an image have 32 bits, which saves registers, unless it is WIDE.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def aligned(C: tl.tensor, P: tl.tensor, V: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr) -> tuple:
    """C and P, one of them now a multiple of V in the eyes of the compiler; in 64 bits if WIDE."""
    if WIDE:
        C, P = C.to(tl.int64), P.to(tl.int64)
    if LAST:
        return C // V * V, P
    else:
        return C, P // V * V


@triton.jit
def spot(C: tl.tensor, P: tl.tensor, TC: tl.constexpr, TP: tl.constexpr, LAST: tl.constexpr) -> tuple:
    """The image, channels and places of this program, where each has a tile. Neighbours are neighbours in memory."""
    program = tl.program_id(0)
    channels, places = tl.cdiv(C, TC), tl.cdiv(P, TP)
    n = (program // (channels * places)).to(tl.int64)
    if LAST:
        c, p = program % channels, program // channels % places
    else:
        c, p = program // places % channels, program % places
    return n, c * TC + tl.arange(0, TC), p * TP + tl.arange(0, TP)


@triton.jit
def offsets(c: tl.tensor, p: tl.tensor, C: tl.tensor, P: tl.tensor, LAST: tl.constexpr) -> tl.tensor:
    """(channels, places), from the start of the image."""
    if LAST:
        return p[None, :] * C + c[:, None]
    else:
        return c[:, None] * P + p[None, :]


@triton.jit
def inside(ok: tl.tensor, p: tl.tensor, P: tl.tensor) -> tl.tensor:
    """(channels, places), of the channels that are there."""
    return ok[:, None] & (p < P)[None, :]


@triton.jit
def taken(pointer: tl.tensor, at: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """Values as they are summed, 0 outside."""
    return tl.load(pointer + at, mask=mask, other=0.0).to(tl.float32)
