"""The CPU kernels in C++, compiled on this machine at first use.

The library is cached in `$REGARD_CACHE`, or else in `regard` in the user's cache directory, by source, compiler and
processor. `REGARD_NATIVE=0` disables the kernels.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from regard.attention.functional import peaks
from regard.files import atomic_write

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})
SMALL = 1 << 14  # with fewer elements, a formula of a few torch operators is as fast

SOURCE = Path(__file__).with_name("kernels.cpp")
# No -ffast-math, which would change results with NaN and infinity.
FLAGS = ["-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]

HUGE, PAGE, MADV_HUGEPAGE = 8 << 20, 4096, 14


def _output(command: list[str]) -> str:
    completed = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if completed.returncode:
        raise RuntimeError(f"{command[0]} failed: {completed.stderr.strip()[:300]}")
    return completed.stderr


def build() -> Path:
    """The path of the kernel library, which is compiled if it does not exist."""
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None:
        raise RuntimeError("there is no C++ compiler; install g++, or set CXX, or disable kernels with REGARD_NATIVE=0")
    # The compiler's version and its expansion of `native` on this processor, because machines may share a directory.
    identity = _output([compiler, *FLAGS, "-E", "-###", "-x", "c++", os.devnull]).encode()
    sources = b"\0".join(path.read_bytes() for path in sorted(SOURCE.parent.glob("*.[ch]*")))
    regard_cache, user_cache = os.environ.get("REGARD_CACHE"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(regard_cache or (Path(user_cache) if user_cache else Path.home() / ".cache") / "regard")
    path = folder / f"kernels-{hashlib.sha256(identity + sources).hexdigest()[:20]}.so"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=600):  # released if the process that compiles is killed
            if not path.is_file():
                with atomic_write(path) as aside:
                    _output([compiler, *FLAGS, "-o", str(aside), str(SOURCE)])
    return path


_library = ctypes.CDLL(str(build()))
_madvise = ctypes.CDLL(None).madvise if sys.platform == "linux" else None


class _Call(ctypes.Structure):
    """The arguments of a kernel; see loops.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n", "c", "h", "w", "last", "threads")),
        ("tensors", ctypes.c_void_p * 16),
        ("numbers", ctypes.c_double * 4),
    ]


def _call(kernel: str, x: Tensor, tensors: Sequence[Tensor | None], *numbers: float) -> None:
    """Runs a kernel on features with the shape, dtype and memory format of x."""
    addresses = (ctypes.c_void_p * 16)(*(None if t is None or not t.numel() else t.data_ptr() for t in tensors))
    call = _Call(*x.shape, not x.is_contiguous(), torch.get_num_threads(), addresses, (ctypes.c_double * 4)(*numbers))
    getattr(_library, f"{kernel}_{str(x.dtype).removeprefix('torch.')}")(ctypes.byref(call))


def _empty_features(like: Tensor) -> Tensor:
    """`torch.empty_like`, with huge pages for large tensors."""
    empty = torch.empty_like(like)
    size = empty.numel() * empty.element_size()
    if _madvise is not None and size >= HUGE:  # page faults of 4 KiB pages would take longer than writing the memory
        start = -(-empty.data_ptr() // PAGE) * PAGE
        _madvise(ctypes.c_void_p(start), ctypes.c_size_t(size - (start - empty.data_ptr())), MADV_HUGEPAGE)
    return empty


def _small(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.promote_types(x.dtype, torch.float32))


def _to_memory_order(x: Tensor, value: Tensor) -> Tensor:
    """A small tensor with its axes in the order in which x has them in memory."""
    return value if x.is_contiguous() else value.permute(0, 2, 3, 1).contiguous()


def _from_memory_order(x: Tensor, value: Tensor) -> Tensor:
    return value if x.is_contiguous() else value.permute(0, 3, 1, 2).contiguous()


def _axes(value: Tensor | None) -> int:
    """A bit mask of the axes, except the first, along which a small tensor has several elements."""
    return sum((size > 1) << (2 - axis) for axis, size in enumerate(value.shape[1:])) if value is not None else 0


def combine(
    x: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    d: Tensor | None,
    g: Tensor | None,
    where: Tensor | None,
    peak: Tensor | None,
    read: bool,
    y: Tensor | None = None,
) -> Tensor:
    small = [None if value is None else _to_memory_order(x, value) for value in (a, b, c, d)]
    y = _empty_features(x) if y is None else y
    _call("combine", x, [x if read else None, *small, g, y], *map(_axes, small))
    if where is not None and peak is not None:
        y.flatten(2).scatter_add_(*peaks(where, peak, x.dtype))
    return y


def combine_backward(g: Tensor, x: Tensor, a: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    if a.shape == x.shape:
        return NotImplemented
    a, dx, db = _to_memory_order(x, a), _empty_features(x), _small(x, 0)
    da = torch.empty_like(a)
    if b is not None:
        b = _to_memory_order(x, b)
        db = torch.empty_like(b)
    _call("combine_backward", x, [g, x, a, b, dx, da, db], _axes(a), _axes(b))
    return dx, _from_memory_order(x, da), db if b is None else _from_memory_order(x, db)


def strip_means(x: Tensor) -> tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    rows, columns = (torch.empty_like(_to_memory_order(x, _small(x, n, c, *size))) for size in ((h, 1), (1, w)))
    _call("reduce", x, [None, x, None, None, None, rows, columns], _axes(rows), _axes(columns))
    return _from_memory_order(x, rows), _from_memory_order(x, columns)


def weighted_sum(x: Tensor, f: Tensor) -> Tensor:
    n, c, h, w = x.shape
    pixels, channels = (n, 1, h, w), (n, c, 1, 1)
    if f.shape not in (pixels, channels):
        return NotImplemented
    factor = _to_memory_order(x, f)
    total = torch.empty_like(_to_memory_order(x, _small(x, *(channels if f.shape[1] == 1 else pixels))))
    _call("reduce", x, [None, x, None, factor, None, total, None], _axes(total), _axes(factor))
    return _from_memory_order(x, total)


def channel_statistics(x: Tensor, variance: bool, maximum: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape, empty = x.shape[:2], (0,)
    mean, squares = _small(x, *shape), _small(x, *(shape if variance else empty))
    top = _small(x, *(shape if maximum else empty))
    where = torch.empty(top.shape, dtype=torch.int64)
    _call("channel_statistics", x, [x, mean, squares, top, where])
    return mean, squares, top, where


def pixel_statistics(x: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, top = _small(x, len(x), 1, *x.shape[2:]), _small(x, len(x), 1, *x.shape[2:])
    where = torch.empty(top.shape, dtype=torch.int64)
    _call("pixel_statistics", x, [x, f, mean, top, where])
    return mean, top, where


def shuffle_gate(
    x: Tensor, scale: Tensor, shift: Tensor, local: Tensor, w: Tensor, b: Tensor, eps: float, shuffle: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if shuffle and x.shape[1] % 2:  # the shuffle interleaves two halves
        return NotImplemented
    y, mean, rstd = _empty_features(x), _small(x, *x.shape[:2]), _small(x, *x.shape[:2])
    _call("shuffle_gate", x, [x, scale, shift, local, w, b, y, mean, rstd], len(w), eps, shuffle)
    return y, mean, rstd


def shuffle_gate_backward(g: Tensor, x: Tensor, *statistics_and_parameters: Any) -> tuple[Tensor, ...]:
    *tensors, _, shuffle = statistics_and_parameters  # the statistics include eps
    mean, w = tensors[0], tensors[-1]
    if shuffle and x.shape[1] % 2:
        return NotImplemented
    dx, small = _empty_features(x), _empty_gradients(x, mean, w)
    _call("shuffle_gate_backward", x, [g, x, *tensors, dx, *small], len(w), shuffle)
    return dx, *(gradient.sum(0) for gradient in small)


def group_gate(
    x: Tensor, weight: Tensor, bias: Tensor, w: Tensor, b: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if x.shape[1] % len(weight):
        return NotImplemented
    y, mean = _empty_features(x), _small(x, *x.shape[:2])
    centre, std = _small(x, len(x), len(weight)), _small(x, len(x), len(weight))
    _call("group_gate", x, [x, weight, bias, w, b, y, mean, centre, std], len(weight), len(w), eps)
    return y, mean, centre, std


def group_gate_backward(g: Tensor, x: Tensor, *statistics_and_parameters: Any) -> tuple[Tensor, ...]:
    *tensors, eps = statistics_and_parameters
    centre, w = tensors[1], tensors[-1]
    if x.shape[1] % centre.shape[1]:
        return NotImplemented
    dx, small = _empty_features(x), _empty_gradients(x, centre, w)
    _call("group_gate_backward", x, [g, x, *tensors, dx, *small], centre.shape[1], len(w), eps)
    return dx, *(gradient.sum(0) for gradient in small)


def _empty_gradients(x: Tensor, statistic: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tensors for the gradients of two parameters, (N, G) like `statistic`, and of w and b, (N, K, G)."""
    n, groups = statistic.shape
    first, second = _small(x, n, groups), _small(x, n, groups)
    return first, second, _small(x, n, len(w), groups), _small(x, n, len(w), groups)
