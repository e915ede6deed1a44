"""Registers and spills of the Triton kernels, compiled for a GPU of compute capability 9.0; no GPU is needed.

    python benchmarks/triton_registers.py            # the shapes of ResNet50, the worst case of each kernel
    python benchmarks/triton_registers.py --all      # also every compiled variant
    python benchmarks/triton_registers.py --quick    # every variant of every kernel once

Kernels are compiled with the arguments of their launches on meta tensors, but not launched. The exit status is 1 if one
spills more than a value or two.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from typing import Any

import torch
import triton
from common import table
from torch import Tensor
from triton.backends.compiler import GPUTarget

from regard.attention.kernels import triton as kernels

RESNET50 = [(256, 56), (512, 28), (1024, 14), (2048, 7)]  # channels, height and width
REGISTERS = 65536  # per multiprocessor
THREADS = 2048
SPILLED = 16  # bytes per thread: a value or two that the compiler spills so that more threads fit


class Compiler:
    """A driver of a GPU for Triton that compiles instead of launching, and records the compiled kernels."""

    def __init__(self) -> None:
        self.kernels: dict[str, list[Any]] = {}
        self.run = triton.JITFunction.run
        triton.runtime.driver.set_active(self)
        triton.JITFunction.run = lambda kernel, *a, grid, warmup, **k: self.compile(kernel, *a, grid=grid, **k)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def compile(self, kernel: Any, *arguments: Any, **options: Any) -> None:
        compiled = self.run(kernel, *arguments, warmup=True, **options)
        if compiled.hash in self.kernels:
            return
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            tool = triton.knobs.nvidia.cuobjdump.path
            printed = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
        registers, spilled = (int(re.search(rf"{name}:(\d+)", printed)[1]) for name in ("REG", "STACK"))
        threads = 32 * compiled.metadata.num_warps
        resident = min(THREADS, REGISTERS // registers // threads * threads)
        name = " ".join(dict.fromkeys([kernel.module.rsplit(".", 1)[1], kernel.__name__.strip("_")]))
        variant = ", ".join(f"{k}={v}" for k, v in options.items() if k.isupper() and k not in ("C", "P", "G"))
        self.kernels[compiled.hash] = [name, variant, registers, spilled, resident]


def run(x: Tensor, groups: int, orders: tuple[int, ...]) -> None:
    """Runs every operation on features `x`, in all variants."""
    n, c, h, w = x.shape

    def small(*shape: int) -> Tensor:
        return torch.empty(shape, device=x.device)

    a, b, per_channel, per_group = small(n, c, 1, 1), small(n, 1, h, w), small(c), small(groups)
    local = per_channel.bool()
    for order in orders:
        gate = small(order, c), small(order, c)
        kernels.shuffle_gate(x, per_channel, per_channel, local, *gate, 1e-5, True)
        statistics = small(n, c), small(n, c)
        kernels.shuffle_gate_backward(x, x, *statistics, per_channel, per_channel, local, *gate, 1e-5, True)
        gate = small(order, groups), small(order, groups)
        kernels.group_gate(x, per_group, per_group, *gate, 1e-5)
        statistics = small(n, c), small(n, groups), small(n, groups)
        kernels.group_gate_backward(x, x, *statistics, per_group, per_group, *gate, 1e-5)
    for factors in ((a, None, None, None), (a, b, None, None), (a, None, a, None), (None, None, a, None)):
        kernels.combine(x, *factors, None, None, None, True)
    for factors in ((a, None, None, None), (a, b, a, b)):
        kernels.combine(x, *factors, x, None, None, False)
    kernels.combine_backward(x, x, a, None)
    kernels.combine_backward(x, x, a, b)
    for variance, maximum in ((True, False), (False, True)):
        kernels.channel_statistics(x, variance, maximum)
    kernels.pixel_statistics(x, a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    quick = options.quick
    compiler = Compiler()
    rows = []
    layouts = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
    if quick:
        cases = [(64, 8, torch.bfloat16, "channels last"), (24, 5, torch.float32, "contiguous")]
    else:
        cases = [(*shape, t, m) for shape in RESNET50 for t in (torch.bfloat16, torch.float32) for m in layouts]
    for channels, side, dtype, layout in cases:
        before = set(compiler.kernels)
        x = torch.empty(4, channels, side, side, device="meta", dtype=dtype).to(memory_format=layouts[layout])
        run(x, 8 if quick else 64, (1,) if quick else (0, 1))
        about = [f"{channels} x {side} x {side}", str(dtype).removeprefix("torch."), layout]
        rows += [[*about, *row] for key, row in compiler.kernels.items() if key not in before]
    if options.all:
        about = ["features", "dtype", "layout", "kernel", "variant", "registers", "spilled bytes", "resident threads"]
        print(table(about, [[str(cell) for cell in row] for row in rows]), end="\n\n")
    worst = []
    for kernel in dict.fromkeys(row[3] for row in rows):
        registers, spilled, threads = zip(*(row[5:] for row in rows if row[3] == kernel), strict=True)
        worst.append([kernel, *map(str, (len(registers), max(registers), max(spilled), min(threads)))])
    print(table(["kernel", "compiled", "registers, at most", "spilled bytes", "resident threads, at least"], worst))
    sys.exit(any(row[6] > SPILLED for row in rows))


if __name__ == "__main__":
    main()
