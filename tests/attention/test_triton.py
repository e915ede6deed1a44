"""The Triton kernels: compiled for a GPU, in Triton's interpreter, and on a GPU where there is one.

Triton reads TRITON_INTERPRET when it is imported, so the checks of check_triton.py run in a separate process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKS = Path(__file__).with_name("check_triton.py")
REGISTERS = Path(__file__).parents[2] / "benchmarks" / "triton_registers.py"


def run(*command: str | Path, **variables: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TRITON_", "PYTEST_XDIST"))} | variables
    process = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-2000:]


def check(**environment: str) -> None:
    pytest.importorskip("triton")
    run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", CHECKS, **environment)


@pytest.mark.slow
def test_kernels_in_the_interpreter() -> None:
    check(TRITON_INTERPRET="1")


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_kernels_on_a_gpu() -> None:
    check()


@pytest.mark.slow
def test_every_kernel_compiles_within_its_registers(tmp_path) -> None:
    """Compiles for a GPU without needing one."""
    pytest.importorskip("triton")
    run(REGISTERS, "--quick", TRITON_CACHE_DIR=str(tmp_path))
