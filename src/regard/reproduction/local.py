"""Runs the commands of jobs on this machine, several at once, each in a separate process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from regard.errors import INTERRUPTED, LOCKED, TAKEN_OVER, InputError
from regard.launcher import without_launcher
from regard.reproduction.plan import Job
from regard.reproduction.scheduler import Ended, Ending
from regard.store import Store

_ENDINGS: dict[int, Ending] = {0: "finished", INTERRUPTED: "stopped", LOCKED: "locked", TAKEN_OVER: "locked"}
"""Exit statuses of `regard train`; any other means that it failed."""
_TAIL = 2000  # bytes at the end of a log that are searched for the last line


class LocalExecutor:
    """Runs jobs on this machine, `slots` at once; each run gets the one of `gpus` GPUs with the fewest runs.

    Raises InputError if `slots` is less than 1.
    """

    queues = False

    def __init__(self, slots: int = 1, gpus: int = 0) -> None:
        if slots < 1:
            raise InputError(f"{slots} runs at once; expected at least 1")
        self.slots, self.gpus = slots, gpus
        self._running: list[_Running] = []

    def start(self, job: Job) -> None:
        log, environment, gpu = Store(job.store).log(job.name), {}, None
        if self.gpus:
            used_gpus = [running.gpu for running in self._running]
            gpu = min(range(self.gpus), key=lambda gpu: (used_gpus.count(gpu), gpu))
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
        self._running.append(_Running(job, start_command(job.command, log, environment), log, gpu))

    def wait(self, seconds: float) -> list[Ended]:
        deadline = time.monotonic() + seconds
        while True:
            ended = [running for running in self._running if running.process.poll() is not None]
            if ended or time.monotonic() >= deadline:
                break
            time.sleep(min(0.1, seconds))
        self._running = [running for running in self._running if running not in ended]
        return [Ended(running.job, *ending_of(running.process.returncode, running.log)) for running in ended]

    def stop(self, *, force: bool) -> None:
        for running in self._running:
            running.process.send_signal(signal.SIGKILL if force else signal.SIGTERM)


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    log: Path
    gpu: int | None


def start_command(
    command: list[str], log: Path, environment: Mapping[str, str] = {}, preexec: Callable[[], object] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a command of regard in a new process, without the variables of a launcher; appends its output to `log`.

    The new process calls `preexec` before the command.
    """
    with open(log, "ab") as file, without_launcher():
        return subprocess.Popen(
            [sys.executable, "-P", "-u", "-m", "regard", *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # only this process receives Ctrl-C, and tells the runs to save
            preexec_fn=preexec,
        )


def ending_of(status: int, log: Path) -> tuple[Ending, str]:
    """The ending of a command and the last line of its log."""
    if status < 0:
        return "killed", f"by {signal.Signals(-status).name}; see {log}"
    text = ""
    with suppress(OSError), open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        text = file.read().decode(errors="replace").strip()
    message = text.rpartition("\n")[2].strip().removeprefix("regard: ")
    ending = _ENDINGS.get(status, "failed")
    return ending, f"{message} (see {log})" if ending == "failed" else message
