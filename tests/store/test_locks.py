"""Locks: one holder at a time, across threads, processes and machines."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from support.buckets import TestBucket

from regard.errors import LOCKED, TAKEN_OVER, InputError, Locked
from regard.store import Store

ME = f"pid {os.getpid()} on {platform.node()}"


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.01)


def write(path: str, content: bytes) -> None:
    fsspec.filesystem("testbucket").pipe_file(path, content)


def locks(run: str = "run") -> list[str]:
    return sorted(path.rpartition("/")[2] for path in TestBucket.store if f"/.locks/{run}/" in path)


@pytest.fixture(params=["folder", "bucket"])
def address(request: pytest.FixtureRequest, tmp_path: Path, bucket: str) -> str:
    return str(tmp_path / "my runs") if request.param == "folder" else bucket


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regard.store.locks._TIMEOUT", 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("no_wait")
def test_a_run_has_one_lock_at_a_time(address: str) -> None:
    first, second = Store(address), Store(address)
    assert first.holder("run") is None and first.locked() == {}
    lock = first.lock("run", lease=0.6)
    for store in (first, second):
        with pytest.raises(Locked, match=rf"{ME} is using .*run") as error_info:
            store.lock("run", lease=0.6)
        assert error_info.value.status == LOCKED == 76
        assert store.holder("run") == ME
    other_lock = second.lock("another [*] run")
    assert second.locked() == {"run": ME, "another [*] run": ME}
    lock.check()
    lock.release()
    lock.release()
    assert second.holder("run") is None
    with second.lock("run", lease=0.6):
        lock.release()  # the released lock: no effect
        with pytest.raises(Locked):
            first.lock("run", lease=0.6)
    other_lock.release()
    assert first.locked() == {} and first.runs() == []
    with pytest.raises(InputError, match="no name of a run"):
        first.lock("a/b")


def test_locks_are_mutually_exclusive(address: str) -> None:
    holders: list[int] = []
    holder_counts: list[int] = []
    releases: list[int] = []

    def work(number: int) -> None:
        store = Store(address)
        while len(releases) < 12:
            try:
                with store.lock("run", lease=0.3):
                    holders.append(number)
                    time.sleep(0.002)
                    holder_counts.append(len(holders))
                    holders.remove(number)
                    releases.append(number)
            except Locked:
                time.sleep(0.002)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(releases) >= 12 and set(holder_counts) == {1}


@pytest.mark.slow
def test_killing_the_holder_releases_its_lock(tmp_path: Path) -> None:
    """The lock is free even while a forked process, such as a DataLoader worker, outlives the holder."""
    code = (
        "import os, sys, time; from regard.store import Store; lock = Store(sys.argv[1]).lock('run')\n"
        "print('held', flush=True)\n"
        "if os.fork() == 0: print(os.getpid(), flush=True)\n"
        "time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    child = int(holder.stdout.readline())
    store = Store(tmp_path)
    with pytest.raises(Locked, match=f"pid {holder.pid} on"):
        store.lock("run")
    assert list(store.locked()) == ["run"]
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    try:
        assert store.locked() == {}
        with store.lock("run"):
            assert store.locked() == {"run": ME}
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


@pytest.mark.usefixtures("no_wait")
def test_a_linked_run_is_locked_in_its_real_store(tmp_path: Path) -> None:
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link").symlink_to(tmp_path / "runs" / "run")
    with Store(tmp_path / "other").lock("link"):
        assert Store(tmp_path / "runs").locked() == {"run": ME}
        assert Store(tmp_path / "other").locked() == {"link": ME}
        with pytest.raises(Locked):
            Store(tmp_path / "runs").lock("run")
    assert Store(tmp_path / "other").locked() == {}


def test_an_unwritable_folder_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / ".locks").write_text("")
    with pytest.raises(InputError, match="cannot be locked") as error_info:
        Store(tmp_path).lock("run")
    assert not isinstance(error_info.value, Locked)


@pytest.mark.usefixtures("no_wait")
@pytest.mark.parametrize("text", ["", "pid 7 on \x1b[31m", "pid 7 on h\n[red]", "pid " + 5000 * "7", None])
def test_malformed_holder_files_name_another_process(tmp_path: Path, text: str | None) -> None:
    with Store(tmp_path).lock("run"):
        (path,) = (tmp_path / ".locks").glob("*.process")
        path.unlink()
        path.write_text(text) if text is not None else os.mkfifo(path)
        assert Store(tmp_path).holder("run") in ("another process", None)
        with pytest.raises(Locked, match="^another process is using"):
            Store(tmp_path).lock("run")


@pytest.mark.parametrize("content", [b"pid 5 on elsewhere\n17.5", b"{}", b"\xff"])
def test_bucket_locks_expire_by_the_clock_of_the_waiting_process(bucket: str, content: bytes) -> None:
    write("/runs/.locks/run/7", content)
    began = time.monotonic()
    with Store(bucket).lock("run", lease=0.3):
        assert time.monotonic() - began >= 0.3
        assert locks() == ["8"]
        assert Store(bucket).locked() == {"run": ME}
    assert Store(bucket).locked() == {}
    began = time.monotonic()
    Store(bucket).lock("run").release()  # immediately, because it was released
    assert time.monotonic() - began < 30 and locks() == ["9"]


def test_holders_without_a_recent_heartbeat_are_not_listed(bucket: str) -> None:
    for name, age in (("old", 301), ("new", 100)):
        write(f"/runs/.locks/{name}/0", f"pid 5 on elsewhere\n{time.time() - age}".encode())
    assert Store(bucket).locked() == {"new": "pid 5 on elsewhere"}


def test_a_stalled_holder_notices_that_it_lost_its_lock(bucket: str) -> None:
    lost = threading.Event()
    lock = Store(bucket).lock("run", lease=0.3, on_loss=lost.set)
    write("/runs/.locks/run/1", b"pid 5 on elsewhere\n1")
    assert lost.wait(60)
    lock.release()
    lock.check()
    assert TestBucket.store["/runs/.locks/run/1"].getvalue() == b"pid 5 on elsewhere\n1"
    lost.clear()
    lock = Store(bucket).lock("other", lease=3600, on_loss=lost.set)
    lock.check()
    assert not lost.is_set()
    write("/runs/.locks/other/1", b"pid 5 on elsewhere\n1")
    lock.check()  # every upload calls check first
    assert lost.is_set()


@pytest.mark.slow
def test_a_process_that_lost_its_lock_exits() -> None:
    code = (
        "import fsspec, time; from regard.store import Store; lock = Store('memory://runs').lock('run', lease=0.3)\n"
        "fsspec.filesystem('memory').pipe_file('/runs/.locks/run/1', b'another'); time.sleep(60)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == TAKEN_OVER == 77 and ended.stderr.count("regard: ") == 1


def test_a_bucket_outage_does_not_lose_the_lock(bucket: str) -> None:
    lost = threading.Event()
    lock = Store(bucket).lock("run", lease=0.3, on_loss=lost.set)
    TestBucket.failing.update(("list", "read", "write"))
    lock.check()
    time.sleep(0.2)
    TestBucket.failing.clear()
    lock.check()
    assert not lost.is_set() and Store(bucket).locked() == {"run": ME}
    TestBucket.failing.update(("list", "read", "write"))
    lock.release()
    TestBucket.failing.clear()
    Store(bucket).lock("run", lease=0.3).release()  # the lock expired


class Careless(MemoryFileSystem):
    protocol = "careless"

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        super().pipe_file(path, value)


class Plain(Careless):
    protocol = "plain"
    pipe_file = fsspec.AbstractFileSystem.pipe_file


@pytest.mark.parametrize("kind", [Careless, Plain])
def test_stores_without_conditional_writes_cannot_be_locked(kind: type) -> None:
    fsspec.register_implementation(kind.protocol, kind, clobber=True)
    with pytest.raises(InputError, match="no conditional writes"):
        Store(f"{kind.protocol}://runs").lock("run")
