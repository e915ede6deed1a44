"""The memory of this machine, or of the container or job that this process runs in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil


def total_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: those of the machine, or fewer if its cgroup (of a container or of a
    job) has a limit.

    Args:
        root: where `proc` and `sys` are.
    """
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _limits(root))])


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of that memory that are not in use.

    Args:
        root: where `proc` and `sys` are.
    """
    free = (max(0, limit - used) for limit, used in _limits(root))
    return min([psutil.virtual_memory().available, *free])


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Of each cgroup with a limit that this process is in: bytes of the limit, and bytes in use."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            base, *names = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"]
        else:
            continue
        group = base / path.lstrip("/")
        while group.is_relative_to(base):  # the limits of those above hold, too
            try:
                limit, used = (int((group / name).read_text()) for name in names[:2])
                counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                yield limit, used - int(counts.get(names[2], 0))  # files that are only cached can go
            except (OSError, ValueError):  # no such group here, or no limit ("max")
                pass
            group = group.parent
