"""Commands in several processes, as a launcher starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

_MAIN = "import sys; from regard.cli import main; sys.exit(main())"


def start(arguments: Sequence[str], count: int, before: str = "") -> list[subprocess.Popen]:
    """So many processes of one command, that find one another as torchrun's do; first they run the Python `before`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", f"{before}\n{_MAIN}", *arguments],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def ended(processes: Sequence[subprocess.Popen], seconds: float = 300) -> list[tuple[int, str, str]]:
    """Status, output and errors of each, once all have ended."""
    try:
        outcomes = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, out, err) for p, (out, err) in zip(processes, outcomes, strict=True)]
