"""The Triton kernels, in Triton's interpreter, and on a GPU if there is one.

Triton reads TRITON_INTERPRET when it is imported, so the checks of check_triton.py run in a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from regard.attention.ops import gpu

pytestmark = pytest.mark.slow

CHECKS = Path(__file__).with_name("check_triton.py")

pytest.importorskip("triton")


def run(interpreter: bool) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET" and not k.startswith("PYTEST_XDIST")}
    if interpreter:
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(CHECKS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_in_the_interpreter() -> None:
    run(interpreter=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu() -> None:
    run(interpreter=False)


def test_without_triton(monkeypatch, caplog) -> None:
    monkeypatch.setitem(sys.modules, "regard.attention.ops.gpu.launch", None)
    with caplog.at_level("WARNING", "regard"):
        assert gpu.load() is None
    assert "Triton does not work here" in caplog.text
    assert len(caplog.records) == 1


def test_kernels_are_loaded_only_when_they_are_needed() -> None:
    code = "import sys, regard.attention.ops.gpu as gpu; sys.exit(gpu.__name__ + '.launch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
