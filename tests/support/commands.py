"""`regard` commands in separate processes: a single one, or several as a launcher starts them.

They are forked from a server that has imported regard already, because each import takes five seconds of CPU time.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["regard.cli.train", "regard.cli.evaluate"])


class Command:
    """A running command, with much of the interface of subprocess.Popen.

    Args:
        arguments: the arguments after `regard`.
        environment: the complete environment of the process.
        before: Python code that the process runs before the command.
        log: file for stdout and stderr; None: two temporary files, which `end` reads.
    """

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], before: str = "", log: Path | None = None
    ) -> None:
        folder = Path(tempfile.mkdtemp(prefix="command-")) if log is None else None
        self._output = (log, log) if folder is None else (folder / "out", folder / "err")
        self._process = _CONTEXT.Process(
            target=_run, args=(list(arguments), before, os.getcwd(), dict(environment), self._output)
        )
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def end(self, seconds: float = 300) -> tuple[int, str, str]:
        """Waits at most `seconds`, kills the process if it still runs, and returns its status, stdout and stderr."""
        self._process.join(seconds)
        self._process.kill()
        self._process.join()
        assert self.returncode is not None
        return self.returncode, *(path.read_text() for path in self._output)


def _run(
    arguments: list[str], before: str, folder: str, environment: dict[str, str], output: tuple[Path, Path]
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for path, stream in zip(output, (sys.stdout, sys.stderr), strict=True):
        with open(path, "ab") as file:
            os.dup2(file.fileno(), stream.fileno())
        stream.reconfigure(line_buffering=True)
    sys.argv = ["regard", *arguments]
    exec(before, {})
    from regard.cli import main

    sys.exit(main(arguments))


def start(arguments: Sequence[str], count: int = 1, before: str = "") -> list[Command]:
    """Starts `count` processes of one command, with torchrun's environment variables."""
    if count == 1:
        return [Command(arguments, os.environ, before)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port)}
    return [
        Command(arguments, {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, before)
        for rank in range(count)
    ]


def by_torchrun(arguments: Sequence[str], count: int, logs: Path) -> list[str]:
    """Runs `count` processes of one command by torchrun's agent, and returns the stderr of each rank.

    Their working folder is that of the process they are forked from.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from regard.cli import main

    files = DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL)
    rendezvous = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "max_restarts": 0, "run_id": "command"}
    config = LaunchConfig(1, 1, count, start_method="forkserver", logs_specs=files, **rendezvous)
    statuses = elastic_launch(config, main)(list(arguments))
    assert statuses == dict.fromkeys(range(count), 0)
    return [path.read_text() for path in sorted(logs.rglob("stderr.log"))]


def ended(commands: Sequence[Command]) -> list[tuple[int, str, str]]:
    """Waits for all commands, and returns the status, stdout and stderr of each."""
    try:
        return [command.end() for command in commands]
    finally:
        for command in commands:
            command.kill()


def wait_for(reached: Callable[[], bool], commands: Sequence[Command], seconds: float = 300) -> None:
    """Waits until a condition holds or a command has ended."""
    end = time.monotonic() + seconds
    while not reached() and all(command.poll() is None for command in commands):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)
