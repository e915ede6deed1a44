"""Commands in processes of their own, alone or as a launcher starts several.

They are forked from one that has imported regard already, as each would take five seconds of computing to do.
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
_CONTEXT.set_forkserver_preload(["regard.commands.train", "regard.commands.evaluate"])


class Command:
    """A command, running.

    Args:
        arguments: after `regard`.
        environment: all of it.
        before: Python that the process runs before the command.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], before: str = "") -> None:
        self._output = Path(tempfile.mkdtemp(prefix="command-"))
        place = (os.getcwd(), dict(environment), str(self._output))
        self._process = _CONTEXT.Process(target=_run, args=(list(arguments), before, *place))
        self._process.start()

    @property
    def status(self) -> int | None:
        """None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()

    def end(self, seconds: float = 300) -> tuple[int, str, str]:
        """Its status, output and errors, once it has ended; it is killed if it has not by then."""
        self._process.join(seconds)
        self._process.kill()
        self._process.join()
        assert self.status is not None
        return self.status, *((self._output / name).read_text() for name in ("out", "err"))


def _run(arguments: list[str], before: str, folder: str, environment: dict[str, str], output: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        with open(os.path.join(output, name), "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["regard", *arguments]
    exec(before, {})
    from regard.cli import main

    sys.exit(main(arguments))


def start(arguments: Sequence[str], count: int = 1, before: str = "") -> list[Command]:
    """So many processes of one command, that find one another as torchrun's do."""
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


def ended(commands: Sequence[Command]) -> list[tuple[int, str, str]]:
    """Status, output and errors of each, once all have ended."""
    try:
        return [command.end() for command in commands]
    finally:
        for command in commands:
            command.kill()


def wait_for(reached: Callable[[], bool], commands: Sequence[Command], seconds: float = 300) -> None:
    """Waits until something is so, or a command has ended."""
    end = time.monotonic() + seconds
    while not reached() and all(command.status is None for command in commands):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)
