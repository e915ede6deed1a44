"""Runs on this machine, some at once, each in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from regard.errors import InputError
from regard.reproduction.engine import Ended, Ending
from regard.reproduction.plan import Job
from regard.reproduction.worker import STATUS, absolute_address, order
from regard.store import Store

_PATIENCE = 120.0  # seconds for a run to save and end


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    log: Path
    gpu: int | None
    file: IO[bytes] = field(repr=False)


class LocalEngine:
    """This machine.

    Args:
        store: where the runs are.
        at_once: how many runs at a time, at least 1.
        gpus: how many GPUs they share; each run has one, the one with the fewest runs.

    Raises:
        InputError: `at_once` is less than 1.
    """

    def __init__(self, store: Store, at_once: int = 1, gpus: int = 0) -> None:
        if at_once < 1:
            raise InputError(f"{at_once} runs at once; it has to be at least 1")
        self.store, self.slots, self.gpus = store, at_once, gpus
        self._running: list[_Running] = []

    def start(self, job: Job) -> None:
        log = self.store.log(job.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        gpu = self._free_gpu()
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = _visible(gpu)
        elif self.slots > 1 and job.recipe.threads is not None:
            environment["OMP_NUM_THREADS"] = str(job.recipe.threads)
        file = open(log, "ab")  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; from regard.reproduction.worker import main; sys.exit(main())"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,  # how it ended, in a line; what it prints goes to the log
            stderr=file,
            env=environment,
            start_new_session=True,  # Ctrl-C comes to this process, which asks the runs to save
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(order(absolute_address(self.store), job).encode())
            process.stdin.close()
        self._running.append(_Running(job, process, log, gpu, file))

    def wait(self, seconds: float) -> list[Ended]:
        until = time.monotonic() + seconds
        while True:
            ended = [one for one in self._running if one.process.poll() is not None]
            if ended or time.monotonic() >= until:
                break
            time.sleep(min(0.1, seconds))
        self._running = [one for one in self._running if one not in ended]
        return [_ended(one) for one in ended]

    def stop(self) -> list[Ended]:
        for one in self._running:
            with contextlib.suppress(ProcessLookupError):
                one.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _PATIENCE
        ended: list[Ended] = []
        while self._running and time.monotonic() < until:
            ended += self.wait(1.0)
        for one in self._running:
            one.process.kill()
            one.process.wait()
        return ended + self.wait(0.0)

    def close(self) -> None:
        self.stop()

    def _free_gpu(self) -> int | None:
        if not self.gpus:
            return None
        return min(range(self.gpus), key=lambda gpu: (sum(one.gpu == gpu for one in self._running), gpu))


def _ended(one: _Running) -> Ended:
    one.file.close()
    status, said = one.process.returncode, one.process.stdout
    message = said.read().decode(errors="replace").strip() if said is not None else ""
    if said is not None:
        said.close()
    if status < 0:
        return Ended(one.job, "lost", f"its process was ended by {signal.Signals(-status).name} (see {one.log})")
    ending: Ending = next((ending for ending, known in STATUS.items() if known == status), "failed")
    return Ended(one.job, ending, message or f"it ended with status {status} (see {one.log})")


def _visible(gpu: int) -> str:
    """What a GPU of this process is called outside it."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    return said.split(",")[gpu] if said else str(gpu)
