"""What wants a GPU, in at most 8 minutes: the tests of its kernels, then attention modules against their peers.

    PYTHONPATH=src python benchmarks/gpu.py
    PYTHONPATH=src python benchmarks/gpu.py --small   # the same on any machine, at sizes of no interest

It needs torch, Triton and pytest; the peers of timm are left out where timm is not. Nothing is appended to RESULTS.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 480
MODULES = "shuffle,sge,se,cbam"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", "tests/attention/test_triton.py"]
    steps = [tests + (["-k", "not interpreter"] if not small else [])]
    for batch, channels, side in ((256, 256, 56), (256, 2048, 7)):
        options = {"modules": MODULES, "batch": batch, "channels": channels, "side": side, "network": "none"}
        if small:
            options |= {"batch": 2, "channels": 128, "side": 8, "repeats": 2}
        given = [f"--{name}={value}" for name, value in options.items()]
        steps.append(["benchmarks/attention_modules.py", *given, "--dtype=bfloat16", "--dry"])
    end, failed = time.monotonic() + SECONDS, []
    for step in steps:
        print("\n$ python", *step, flush=True)
        try:
            subprocess.run([sys.executable, *step], cwd=ROOT, timeout=max(1, end - time.monotonic()), check=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            failed.append(error)
    sys.exit("\n".join(map(str, failed)))


if __name__ == "__main__":
    main()
