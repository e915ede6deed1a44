"""Who a process is, among all machines, and whether it is still there."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Process:
    """A process.

    Attributes:
        host: name of its machine, or of its container.
        boot: of the machine's start, other for each; empty where the system does not say it.
        space: of the process numbers, other for each container; empty where the system does not say it.
        pid: its number.
        start: when it began, in ticks since the machine did, as numbers are used again; -1 if not known.
    """

    host: str
    boot: str
    space: str
    pid: int
    start: int

    @classmethod
    def current(cls) -> Process:
        pid = os.getpid()
        return cls(platform.node(), *_machine(), pid, _start(pid))

    @classmethod
    def of(cls, content: dict[str, Any]) -> Process:
        """The one that `plain` wrote.

        Raises:
            ValueError: it is none.
        """
        try:
            values = {one.name: content[one.name] for one in fields(cls)}
        except (KeyError, TypeError) as error:
            raise ValueError("no process") from error
        numbers, texts = ("pid", "start"), ("host", "boot", "space")
        if not all(type(values[name]) is int for name in numbers) or not 1 <= values["pid"] < 2**63:
            raise ValueError("no process")
        if not all(isinstance(values[name], str) and values[name].isprintable() for name in texts):
            raise ValueError("no process")
        return cls(**values)

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return asdict(self)

    @property
    def gone(self) -> bool:
        """Whether it is known to have ended, which is so only of processes that share their numbers with this one."""
        boot, space = _machine()
        if not boot or not space or (self.host, self.boot, self.space) != (platform.node(), boot, space):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # there, and another person's; or no number of a process
            pass
        start = _start(self.pid)
        return start == _ENDED or -1 not in (start, self.start) and start != self.start

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


_ENDED = -2  # nobody has asked yet how it ended


def _start(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            values = file.read().rpartition(b")")[2].split()  # the name before may hold anything
        return _ENDED if values[0] in (b"Z", b"X") else int(values[19])
    except (OSError, ValueError, IndexError):
        return -1


@cache
def _machine() -> tuple[str, str]:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip(), os.readlink("/proc/self/ns/pid")
    except OSError:
        return "", ""
