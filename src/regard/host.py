"""The memory and the processors of this machine, or of the container or job in which this process runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil


def total_memory(root: Path = Path("/")) -> int:
    """The memory that this process may use, in bytes: all memory of the machine, or less if a cgroup sets a limit."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _limits(root))])


def available_memory(root: Path = Path("/")) -> int:
    """The unused memory that this process may use, in bytes."""
    free = (max(0, limit - used) for limit, used in _limits(root))
    return min([psutil.virtual_memory().available, *free])


def processors(root: Path = Path("/")) -> int:
    """The number of processors that this process may use: those it may run on, or fewer if a cgroup sets a quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([count, *_quotas(root)])))


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """The memory limit and the used memory, in bytes, of each cgroup with a limit that contains this process."""
    for group, version in _groups(root, "memory"):
        names = ["memory.max", "memory.current", "inactive_file"]
        if version == 1:
            names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"]
        with suppress(OSError, ValueError):  # the group is not visible here, or its limit is "max"
            limit, used = (int((group / name).read_text()) for name in names[:2])
            counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            yield limit, used - int(counts.get(names[2], 0))  # cached files can be evicted


def _quotas(root: Path) -> Iterator[float]:
    """The processor time, in processors, of each cgroup with a quota that contains this process."""
    for group, version in _groups(root, "cpu"):
        names = ["cpu.max"] if version == 2 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        with suppress(OSError, ValueError):  # as above
            quota, period = (int(number) for name in names for number in (group / name).read_text().split())
            if quota > 0:  # -1 is no quota
                yield quota / period


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """The folder and the version of each cgroup that contains this process, under `root`/sys, for a controller."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, version = root / "sys/fs/cgroup", 2
        elif controller in controllers.split(","):
            base, version = root / "sys/fs/cgroup" / controller, 1
        else:
            continue
        group = base / path.lstrip("/")
        while group.is_relative_to(base):  # the limits of parent groups apply too
            yield group, version
            group = group.parent
