"""The kernels for processors, in C++, built by the compiler of this machine when they are first needed."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from regard.attention.ops.kernels import sum_dtype
from regard.files import written_aside

SOURCE = Path(__file__).with_name("kernels.cpp")
# No -ffast-math: NaN and infinity are kept as they are.
FLAGS = ["-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]

HUGE = 8 << 20  # bytes
PAGE = 4096
MADV_HUGEPAGE = 14

_log = logging.getLogger("regard")
_building = Lock()


def _find_madvise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


_madvise = _find_madvise()


def load() -> NativeKernels | None:
    """The kernels, built if they are not yet; None, with a warning that says why, where they cannot be.

    They are kept in `$REGARD_CACHE`, or `regard` in the user's cache folder, by source, compiler and processor.
    `REGARD_NATIVE=0` goes without them.
    """
    if os.environ.get("REGARD_NATIVE") == "0":
        _log.info("attention runs on torch's own operations: REGARD_NATIVE is 0")
        return None
    try:
        path = _built()
        library = ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        _log.warning(
            "attention runs on torch's own operations, which are several times slower: its kernels could not be built "
            "(%s); a C++ compiler (g++ or $CXX) makes them, REGARD_NATIVE=0 silences this",
            str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
        )
        return None
    _log.info("attention runs on its own kernels for this processor: %s", path)
    return NativeKernels(library)


def _built() -> Path:
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None:
        raise RuntimeError("there is no C++ compiler")
    identity = [
        *(path.read_bytes() for path in sorted(SOURCE.parent.glob("*.[ch]*"))),
        compiler.encode(),
        " ".join(FLAGS).encode(),
        _processor().encode(),
    ]
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=60, check=True).stdout
    name = hashlib.sha256(b"\0".join([*identity, version])).hexdigest()[:20]
    path = _cache() / f"kernels-{name}{sysconfig.get_config_var('SHLIB_SUFFIX') or '.so'}"
    with _building:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_aside(path) as aside:  # several processes may build at once; each puts a whole file there
                command = [compiler, *FLAGS, "-o", str(aside), str(SOURCE)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=600)
                if done.returncode:
                    raise RuntimeError(f"{compiler} failed: {done.stderr.strip()[:300]}")
    return path


def _cache() -> Path:
    own = os.environ.get("REGARD_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regard"


@cache
def _processor() -> str:
    """What the compiler's `native` depends on: a cache folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
        return platform.machine() + "".join(sorted(set(told)))
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("n", "c", "h", "w", "last", "threads")]


class NativeKernels:
    """The kernels of `kernels.cpp`; see `Kernels` for what each does."""

    name = "native"
    dtypes = frozenset({torch.float32, torch.float64, torch.bfloat16})

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def _call(self, kernel: str, like: Tensor, *arguments: Tensor | int | float | None) -> None:
        """Runs a kernel on features of the shape, dtype and memory format of `like`."""
        shape = _Shape(*like.shape, not like.is_contiguous(), torch.get_num_threads())
        given = [
            ctypes.c_void_p(a.data_ptr())
            if isinstance(a, Tensor)
            else ctypes.c_void_p(None)
            if a is None
            else ctypes.c_double(a)
            if isinstance(a, float)
            else ctypes.c_int64(a)
            for a in arguments
        ]
        getattr(self._library, f"{kernel}_{str(like.dtype).removeprefix('torch.')}")(ctypes.byref(shape), *given)

    @staticmethod
    def _features(like: Tensor) -> Tensor:
        """Room for features like `like`."""
        room = torch.empty_like(like)
        size = room.numel() * room.element_size()
        if _madvise is not None and size >= HUGE:
            # Fresh memory comes in pages of 4 KiB, each with a fault that costs more than to fill it; ask for larger.
            start = -(-room.data_ptr() // PAGE) * PAGE
            _madvise(start, size - (start - room.data_ptr()), MADV_HUGEPAGE)
        return room

    @staticmethod
    def _small(like: Tensor, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=sum_dtype(like.dtype))

    @staticmethod
    def _positions(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int64)

    def plane_gate_forward(
        self, x: Tensor, scale: Tensor, shift: Tensor, local: Tensor, w: Tensor, b: Tensor, eps: float, shuffle: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, rstd = self._features(x), self._small(x, *x.shape[:2]), self._small(x, *x.shape[:2])
        self._call("plane_gate_forward", x, x, y, scale, shift, local, w, b, len(w), eps, shuffle, mean, rstd)
        return y, mean, rstd

    def plane_gate_backward(
        self,
        g: Tensor,
        x: Tensor,
        mean: Tensor,
        rstd: Tensor,
        scale: Tensor,
        shift: Tensor,
        local: Tensor,
        w: Tensor,
        b: Tensor,
        shuffle: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        (n, c), k = x.shape[:2], len(w)
        dx, dscale, dshift = self._features(x), self._small(x, n, c), self._small(x, n, c)
        dw, db = self._small(x, n, k, c), self._small(x, n, k, c)
        self._call(
            "plane_gate_backward",
            x,
            *(g, x, mean, rstd, scale, shift, local, w, b, k, shuffle),
            *(dx, dscale, dshift, dw, db),
        )
        return dx, dscale, dshift, dw, db

    def plane_statistics(
        self, x: Tensor, variance: bool, largest: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        n, c = x.shape[:2]
        mean, var = self._small(x, n, c), self._small(x, n, c) if variance else None
        top, where = (self._small(x, n, c), self._positions(n, c)) if largest else (None, None)
        self._call("plane_statistics", x, x, mean, var, top, where)
        return mean, var, top, where

    def plane_scale(self, x: Tensor, f: Tensor) -> Tensor:
        y = self._features(x)
        self._call("plane_scale", x, x, f, y)
        return y

    def plane_dot(self, g: Tensor, x: Tensor) -> Tensor:
        dots = self._small(x, *x.shape[:2])
        self._call("plane_dot", x, g, x, dots)
        return dots

    def plane_combine(
        self,
        g: Tensor,
        f: Tensor,
        rest: Tensor,
        x: Tensor | None,
        slope: Tensor | None,
        peak: Tensor | None,
        where: Tensor | None,
    ) -> Tensor:
        dx = self._features(g)
        self._call("plane_combine", g, g, f, rest, x, slope, peak, where, dx)
        return dx

    def cross_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n, c, h, w = x.shape
        rows, columns = self._small(x, n, c, h), self._small(x, n, c, w)
        self._call("cross_statistics", x, x, rows, columns)
        return rows, columns

    def cross_scale(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        y = self._features(x)
        self._call("cross_scale", x, x, rows, columns, y)
        return y

    def cross_dot(self, g: Tensor, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        drows, dcolumns = torch.empty_like(rows), torch.empty_like(columns)
        self._call("cross_dot", x, g, x, rows, columns, drows, dcolumns)
        return drows, dcolumns

    def cross_combine(self, g: Tensor, rows: Tensor, columns: Tensor, row_rest: Tensor, column_rest: Tensor) -> Tensor:
        dx = self._features(g)
        self._call("cross_combine", g, g, rows, columns, row_rest, column_rest, dx)
        return dx

    def group_gate_forward(
        self, x: Tensor, weight: Tensor, bias: Tensor, w: Tensor, b: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (n, c), groups = x.shape[:2], len(weight)
        y, mean = self._features(x), self._small(x, n, c)
        centre, spread = self._small(x, n, groups), self._small(x, n, groups)
        self._call("group_gate_forward", x, x, y, groups, weight, bias, w, b, len(w), eps, mean, centre, spread)
        return y, mean, centre, spread

    def group_gate_backward(
        self,
        g: Tensor,
        x: Tensor,
        mean: Tensor,
        centre: Tensor,
        spread: Tensor,
        weight: Tensor,
        bias: Tensor,
        w: Tensor,
        b: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        n, groups, k = len(x), len(weight), len(w)
        dx, dweight, dbias = self._features(x), self._small(x, n, groups), self._small(x, n, groups)
        dw, db = self._small(x, n, k, groups), self._small(x, n, k, groups)
        self._call(
            "group_gate_backward",
            x,
            *(g, x, groups, weight, bias, w, b, k, eps, mean, centre, spread),
            *(dx, dweight, dbias, dw, db),
        )
        return dx, dweight, dbias, dw, db

    def place_statistics(self, x: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, p = len(x), x.shape[2] * x.shape[3]
        mean, top, where = self._small(x, n, p), self._small(x, n, p), self._positions(n, p)
        self._call("place_statistics", x, x, f, mean, top, where)
        return mean, top, where

    def place_scale(self, x: Tensor, f: Tensor, m: Tensor) -> Tensor:
        y = self._features(x)
        self._call("place_scale", x, x, f, m, y)
        return y

    def place_dot(self, g: Tensor, x: Tensor, f: Tensor) -> Tensor:
        dots = self._small(x, len(x), x.shape[2] * x.shape[3])
        self._call("place_dot", x, g, x, f, dots)
        return dots

    def place_plane_dot(self, g: Tensor, x: Tensor, m: Tensor, rest: Tensor, peak: Tensor, where: Tensor) -> Tensor:
        dots = self._small(x, *x.shape[:2])
        self._call("place_plane_dot", x, g, x, m, rest, peak, where, dots)
        return dots

    def place_combine(
        self,
        g: Tensor,
        f: Tensor,
        m: Tensor,
        rest: Tensor,
        peak: Tensor,
        where: Tensor,
        plane_rest: Tensor,
        plane_peak: Tensor,
        plane_where: Tensor,
    ) -> Tensor:
        dx = self._features(g)
        self._call("place_combine", g, g, f, m, rest, peak, where, plane_rest, plane_peak, plane_where, dx)
        return dx

    def over_channels(self, x: Tensor, k: Tensor) -> Tensor:
        sums = self._small(x, len(x), x.shape[2] * x.shape[3])
        self._call("over_channels", x, x, k, sums)
        return sums

    def over_places(self, x: Tensor, a: Tensor) -> Tensor:
        sums = self._small(x, *x.shape[:2])
        self._call("over_places", x, x, a, sums)
        return sums

    def context_combine(self, g: Tensor, f: Tensor, u: Tensor, a: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dx = self._features(g)
        self._call("context_combine", g, g, f, u, a, k, v, dx)
        return dx
