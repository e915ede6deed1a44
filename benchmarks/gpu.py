"""The checks that need a GPU, in at most 8 minutes: tests of the kernels, then attention modules against their peers.

    PYTHONPATH=src python benchmarks/gpu.py
    PYTHONPATH=src python benchmarks/gpu.py --small   # the same on any machine, at tiny sizes

Nothing is appended to RESULTS.md.
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
    for batch, channels, side in [(2, 128, 8)] if small else [(256, 256, 56), (256, 2048, 7)]:
        sizes = f"--batch={batch} --channels={channels} --side={side}".split()
        options = f"--modules={MODULES} --dtype=bfloat16 --network=none --dry".split()
        steps.append(["benchmarks/attention_modules.py", *sizes, *options])
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
