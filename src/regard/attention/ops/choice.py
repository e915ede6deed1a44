"""Which version of an operation runs: its plain formula, or a faster one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from regard.attention.ops.kernels import Kernels

# Below so many elements on a processor, an operation of several functions costs more to call than its kernels save.
SMALL = 1 << 16

_formulas_asked_for = 0


@contextmanager
def reference() -> Iterator[None]:
    """Makes every operation take its plain formula, in which torch, and tools that watch torch, see each step."""
    global _formulas_asked_for
    _formulas_asked_for += 1
    try:
        yield
    finally:
        _formulas_asked_for -= 1


def kernels_for(x: Tensor, *beside: tuple[Tensor, tuple[int, ...]], calls: int = 1) -> Kernels | None:
    """The kernels for features `x`, or None where the plain formula is to run.

    It runs where someone needs to see through the operation: inside `reference()`, while torch compiles, exports or
    traces, under function transforms and dispatch modes (such as those that count operations), for forward-mode
    differentiation and tensor subclasses. Under `torch.compile` the compiler makes its own kernels of it. It also runs
    for dtypes and devices that have no kernels, and for operations of several calls on features so small that the calls
    would take most of the time.

    Kernels trust their caller, so the formula also runs, which broadcasts or refuses, where a tensor `beside` the
    features is on another device or has another shape than the one it is given with.
    """
    if (
        _formulas_asked_for
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or _get_current_dispatch_mode() is not None
        or type(x) not in (Tensor, torch.nn.Parameter)
        or x.dim() != 4
        or x.layout is not torch.strided
        or not x.numel()
        or (calls > 1 and x.device.type == "cpu" and x.numel() < SMALL)
        or any(tensor.shape != shape or tensor.device != x.device for tensor, shape in beside)
    ):
        return None
    kernels = _kernels(x.device.type)
    return kernels if kernels is not None and x.dtype in kernels.dtypes else None


@cache
def _kernels(device: str) -> Kernels | None:
    if device == "cpu":
        from regard.attention.ops import native

        return native.load()
    if device == "cuda":
        from regard.attention.ops import gpu

        return gpu.load()
    return None


def backend(device: torch.device | str) -> str:
    """What runs the operations on `device`, in words: 'native', 'triton' or 'torch'."""
    kernels = _kernels(torch.device(device).type)
    return kernels.name if kernels is not None else "torch"
