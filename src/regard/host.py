"""The memory of this machine, or of the container or job in which this process runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil


def total_memory(root: Path = Path("/")) -> int:
    """The memory that this process may use, in bytes: all memory of the machine, or less if a cgroup sets a limit."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _limits(root))])


def available_memory(root: Path = Path("/")) -> int:
    """The unused memory that this process may use, in bytes."""
    free = (max(0, limit - used) for limit, used in _limits(root))
    return min([psutil.virtual_memory().available, *free])


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """The memory limit and the used memory, in bytes, of each cgroup with a limit that contains this process.

    `root` contains the directories `proc` and `sys`.
    """
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
        while group.is_relative_to(base):  # the limits of parent groups apply too
            try:
                limit, used = (int((group / name).read_text()) for name in names[:2])
                counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                yield limit, used - int(counts.get(names[2], 0))  # cached files can be evicted
            except (OSError, ValueError):  # the group is not visible here, or its limit is "max"
                pass
            group = group.parent
