"""Runs the commands of jobs on this machine, some at once, each in a process of its own."""

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
"""The exit statuses of `regard train`; any other: it failed."""
_LAST = 2000  # bytes of a log that are searched for the last line


class LocalExecutor:
    """This machine.

    Args:
        slots: how many runs at once, at least 1.
        gpus: how many GPUs they share; each run has one, the one with the fewest runs.

    Raises:
        InputError: `slots` is less than 1.
    """

    queues = False

    def __init__(self, slots: int = 1, gpus: int = 0) -> None:
        if slots < 1:
            raise InputError(f"{slots} runs at once; it has to be at least 1")
        self.slots, self.gpus = slots, gpus
        self._running: list[_Running] = []

    def start(self, job: Job) -> None:
        log, environment, gpu = Store(job.store).log(job.name), {}, None
        if self.gpus:
            taken = [one.gpu for one in self._running]
            gpu = min(range(self.gpus), key=lambda gpu: (taken.count(gpu), gpu))
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
        self._running.append(_Running(job, start_command(job.command, log, environment), log, gpu))

    def wait(self, seconds: float) -> list[Ended]:
        until = time.monotonic() + seconds
        while True:
            ended = [one for one in self._running if one.process.poll() is not None]
            if ended or time.monotonic() >= until:
                break
            time.sleep(min(0.1, seconds))
        self._running = [one for one in self._running if one not in ended]
        return [Ended(one.job, *ending_of(one.process.returncode, one.log)) for one in ended]

    def stop(self, *, force: bool) -> None:
        for one in self._running:
            one.process.send_signal(signal.SIGKILL if force else signal.SIGTERM)


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    log: Path
    gpu: int | None


def start_command(
    command: list[str], log: Path, environment: Mapping[str, str] = {}, before: Callable[[], object] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a command of regard in a process of its own, which is no part of what a launcher started.

    Args:
        command: that begins with "regard".
        log: the file that gets all it prints.
        environment: variables that it has besides those of this process.
        before: called in the new process before the command.
    """
    with open(log, "ab") as file, without_launcher():
        return subprocess.Popen(
            [sys.executable, "-P", "-u", "-m", "regard", *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C comes to this process alone, which asks the runs to save
            preexec_fn=before,
        )


def ending_of(status: int, log: Path) -> tuple[Ending, str]:
    """How a command ended, and its last line, from its exit status and its log."""
    if status < 0:
        return "killed", f"by {signal.Signals(-status).name}; see {log}"
    text = ""
    with suppress(OSError), open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST))
        text = file.read().decode(errors="replace").strip()
    message = text.rpartition("\n")[2].strip().removeprefix("regard: ")
    ending = _ENDINGS.get(status, "failed")
    return ending, f"{message} (see {log})" if ending == "failed" else message
