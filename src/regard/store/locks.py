"""Locks of runs: of all processes on all machines that use a store, only one at a time may write to a run.

In a folder, the operating system manages the lock (`filelock`), also over NFS, and releases it when its process ends.
In a bucket, a lock is a numbered object that is created only if it does not exist. Its holder regularly writes the time
into it. If it does not change for the length of the lease, measured by the clock of a waiting process, it has expired,
and that process creates the next number. A holder that finds a higher number than its own has lost the run. Only lower
numbers are deleted. An empty object is a released lock.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from filelock import FileLock, Timeout

from regard.errors import TAKEN_OVER, Locked
from regard.files import read_regular
from regard.store.bucket import Bucket

LEASE = 60.0  # seconds
_FOLDER = ".locks"
_RENEWALS = 6  # renewals per lease
_CHECKS = 30  # checks of another process's lock per lease
_TIMEOUT = 1.0  # seconds to wait for the lock of a folder
_PROCESS = re.compile(r"pid \d{1,10} on [\w.-]{1,255}", re.ASCII)


class Lock:
    """An acquired lock of a run, as a context manager."""

    def check(self) -> None:
        """Checks that no other process has taken over the lock; see `Store.lock`."""

    def release(self) -> None:
        """Releases the lock. A second call does nothing."""

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def leave() -> NoReturn:
    """Ends the process at once, because another process has taken over the lock and both would write to the run."""
    print("regard: another process took over the run, because this one did not renew its lock", file=sys.stderr)
    sys.stderr.flush()
    os._exit(TAKEN_OVER)


class FolderLocks:
    """The locks of the runs in a folder. The lock of a symbolic link is at its target."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def lock(self, name: str, lease: float, on_loss: Callable[[], object]) -> Lock:
        """See `Store.lock`. Raises OSError."""
        path, holder_path = self._paths(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=_TIMEOUT)
        except Timeout:
            raise _locked(self.holder(name), self._folder / name) from None
        with suppress(OSError):  # the disk is full; then the holder is unknown
            holder_path.unlink(missing_ok=True)
            holder_path.write_bytes(_this_process())
        return _FolderLock(lock, holder_path)

    def holder(self, name: str) -> str | None:
        """The holder of a lock; None if it is free or the holder is unknown."""
        path, holder_path = self._paths(name)
        try:
            content = read_regular(holder_path, 1000)
            lock = FileLock(path, thread_local=False)
            lock.acquire(timeout=0)
            _FolderLock(lock, holder_path).release()  # the holder was killed
            return None
        except Timeout:
            return _printable_holder(content)
        except OSError:
            return None

    def names(self) -> set[str]:
        """Names of the runs that have a lock file, locked or not."""
        names = {path.name.removesuffix(".process") for path in (self._folder / _FOLDER).glob("*.process")}
        with suppress(OSError), os.scandir(self._folder) as entries:
            names |= {entry.name for entry in entries if entry.is_symlink() and entry.name[0] != "."}
        return names

    def _paths(self, name: str) -> tuple[Path, Path]:
        """The path of the lock file, which is empty, and of the file with the name of its holder."""
        run = Path(os.path.realpath(self._folder / name))
        return run.parent / _FOLDER / f"{run.name}.lock", run.parent / _FOLDER / f"{run.name}.process"


class _FolderLock(Lock):
    def __init__(self, lock: FileLock, holder_path: Path) -> None:
        self._lock, self._holder_path = lock, holder_path

    def release(self) -> None:
        if self._lock.is_locked:
            with suppress(OSError):
                self._holder_path.unlink()
                os.unlink(self._lock.lock_file)  # a waiting process notices this, and creates another file
            self._lock.release()


class BucketLocks:
    """The locks of the runs in a bucket."""

    def __init__(self, bucket: Bucket, address: str) -> None:
        self._bucket, self._address = bucket, address

    def lock(self, name: str, lease: float, on_loss: Callable[[], object]) -> Lock:
        """See `Store.lock`. Raises errors of the file system."""
        number, content = _newest_lock(self._bucket, name)
        deadline = time.monotonic() + lease
        while content and time.monotonic() < deadline:
            time.sleep(lease / _CHECKS)
            new_number, new_content = _newest_lock(self._bucket, name)
            if new_number > number or new_content not in (content, b""):
                raise _locked(_printable_holder(new_content.partition(b"\n")[0]), f"{self._address}/{name}")
            content = new_content
        if not self._bucket.create(_object_path(name, number + 1), _heartbeat()):
            raise _locked(self.holder(name), f"{self._address}/{name}")
        for old in _lock_numbers(self._bucket, name):
            if old <= number:
                self._bucket.remove(_object_path(name, old))
        return _BucketLock(self._bucket, name, number + 1, lease, on_loss)

    def holder(self, name: str) -> str | None:
        """The holder of a lock; None if it has not been renewed for several leases, by the clocks of both machines."""
        process, _, renewed = _newest_lock(self._bucket, name)[1].partition(b"\n")
        try:
            expired = time.time() - float(renewed) > 5 * LEASE
        except ValueError:
            expired = not process
        return None if expired else _printable_holder(process)

    def names(self) -> set[str]:
        """Names of the runs that have a lock file, locked or not."""
        return {path.rpartition("/")[0] for path, (size, _) in self._bucket.files(_FOLDER).items() if size}


class _BucketLock(Lock):
    """A lock in a bucket that a thread renews."""

    def __init__(self, bucket: Bucket, name: str, number: int, lease: float, on_loss: Callable[[], object]) -> None:
        self._bucket, self._name, self._number, self._on_loss = bucket, name, number, on_loss
        self._mutex, self._end = threading.Lock(), threading.Event()
        threading.Thread(target=self._renew, args=(lease / _RENEWALS,), name=f"lock of {name}", daemon=True).start()

    def _renew(self, seconds: float) -> None:
        while not self._end.wait(seconds):
            self.check()

    def check(self) -> None:
        lost = False
        with self._mutex, suppress(Exception):  # if the bucket cannot be reached, the next check decides
            if self._end.is_set():
                return
            lost = max(_lock_numbers(self._bucket, self._name), default=0) > self._number
            if lost:
                self._end.set()
            else:
                self._bucket.write(_object_path(self._name, self._number), _heartbeat())
        if lost:
            self._on_loss()

    def release(self) -> None:
        with self._mutex, suppress(Exception):  # a lock that is not released expires
            if not self._end.is_set():
                self._end.set()
                self._bucket.write(_object_path(self._name, self._number), b"")


def _object_path(name: str, number: int) -> str:
    return f"{_FOLDER}/{name}/{number}"


def _lock_numbers(bucket: Bucket, name: str) -> list[int]:
    return [int(path) for path in bucket.files(f"{_FOLDER}/{name}") if path.isdecimal()]


def _newest_lock(bucket: Bucket, name: str) -> tuple[int, bytes]:
    """Number and content of the newest lock of a run; -1 and no content if there is none."""
    number = max(_lock_numbers(bucket, name), default=-1)
    try:
        return number, bucket.read(_object_path(name, number)) if number >= 0 else b""
    except FileNotFoundError:  # deleted, because a higher number exists by now
        return _newest_lock(bucket, name)


def _this_process() -> bytes:
    return f"pid {os.getpid()} on {platform.node()}".encode()


def _heartbeat() -> bytes:
    return b"%b\n%.6f" % (_this_process(), time.time())


def _printable_holder(process: bytes) -> str:
    text = process.decode(errors="replace")
    return text if _PROCESS.fullmatch(text) else "another process"


def _locked(holder: str | None, run: object) -> Locked:
    return Locked(f"{holder or 'another process'} is using {run}; wait for it, or give another --run")
