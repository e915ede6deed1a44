"""The memory and the processors available in a container."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from regard import host

GIB = 2**30


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_memory_limit_of_cgroup_v2(tmp_path: Path) -> None:
    """The limit may be set on a parent group; inactive cached files count as available."""
    write(tmp_path / "proc/self", cgroup="0::/job/step")
    write(tmp_path / "sys/fs/cgroup/job/step", memory__max="max", memory__current=GIB)
    job = tmp_path / "sys/fs/cgroup/job"
    write(job, memory__max=GIB, memory__current=GIB // 2, memory__stat=f"anon 5\ninactive_file {GIB // 4}")
    assert host.total_memory(tmp_path) == GIB
    assert host.available_memory(tmp_path) == GIB * 3 // 4


def test_memory_limit_of_cgroup_v1(tmp_path: Path) -> None:
    """Inside a container its group is at the root, whatever its name is outside."""
    write(tmp_path / "proc/self", cgroup="5:cpu:/a\n4:memory,hugetlb:/docker/abc\n0::/")
    group = tmp_path / "sys/fs/cgroup/memory"
    write(group, memory__limit_in_bytes=GIB, memory__usage_in_bytes=2 * GIB, memory__stat="total_inactive_file 5")
    assert host.total_memory(tmp_path) == GIB
    assert host.available_memory(tmp_path) == 0


def test_without_a_limit_the_memory_of_the_machine_counts(tmp_path: Path) -> None:
    assert host.total_memory(tmp_path) == psutil.virtual_memory().total
    write(tmp_path / "proc/self", cgroup="4:memory:/")
    group = tmp_path / "sys/fs/cgroup/memory"
    write(group, memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=GIB, memory__stat="total_inactive_file 5")
    assert host.total_memory(tmp_path) == psutil.virtual_memory().total
    assert 0 < host.available_memory(tmp_path) <= host.total_memory(tmp_path)


def test_processor_quotas_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest quota of a group and its parents, rounded down; at least 1."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert host.processors(tmp_path) == 64
    write(tmp_path / "proc/self", cgroup="0::/pod/container")
    write(tmp_path / "sys/fs/cgroup/pod/container", cpu__max="max 100000")
    assert host.processors(tmp_path) == 64
    write(tmp_path / "sys/fs/cgroup/pod", cpu__max="650000 100000")
    assert host.processors(tmp_path) == 6
    write(tmp_path / "proc/self", cgroup="4:cpu,cpuacct:/a\n0::/")
    write(tmp_path / "sys/fs/cgroup/cpu/a", **{"cpu.cfs_quota_us": -1, "cpu.cfs_period_us": 100000})
    assert host.processors(tmp_path) == 64
    write(tmp_path / "sys/fs/cgroup/cpu/a", **{"cpu.cfs_quota_us": 50000})
    assert host.processors(tmp_path) == 1
