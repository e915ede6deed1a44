"""A store of runs: run folders under one address, which several machines may use at once."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from regard.errors import InputError, first_line, one_line
from regard.files import MAX_BYTES
from regard.store.bucket import Bucket, fetch_run, upload_run
from regard.store.locks import LEASE, BucketLocks, FolderLocks, Lock, leave
from regard.store.runs import CHECKPOINTS, RUN_MARKERS, WEIGHTS, StoredRun, parse_run, read_run

_THREADS = 16
_SAMPLE = 64  # number of runs to read before the speed of the disk is judged
_SLOW = 2e-3  # seconds per run of a network file system, on which runs are read in parallel


class MissingRun(InputError):
    """There is no run with this name."""


class Store:
    """The run folders directly below a local or remote address.

    Ignores names that begin with a dot, and folders that are not runs. Locks and logs have names that begin with a dot;
    they may be removed while no process uses the store.

    All methods raise InputError if the store cannot be reached, or for an invalid name of a run.

    Args:
        address: a folder, which need not exist yet, or an address of fsspec: `s3://bucket/runs`, `gs://…`, `file:///…`,
            `memory://…`.

    Attributes:
        address: the address; for a folder without a slash at the end.
        folder: path of the store if it is a folder on this machine; else None.

    Raises:
        InputError: an unknown kind of address, a missing library for it, or it cannot be reached.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        self._location = _open_location(os.fspath(address))
        self._locks: FolderLocks | BucketLocks
        if isinstance(self._location, Path):
            self.folder: Path | None = self._location
            self.address = str(self._location)
            self._locks = FolderLocks(self._location)
        else:
            self.folder = None
            self.address = os.fspath(address).rstrip("/")
            self._locks = BucketLocks(self._location, self.address)

    def __repr__(self) -> str:
        return f"Store({self.address!r})"

    def exists(self) -> bool:
        """Whether the address exists."""
        with self._errors("read"):
            return self._location.is_dir() if isinstance(self._location, Path) else self._location.exists()

    def runs(self) -> list[StoredRun]:
        """All runs, sorted by name. A run that cannot be read has a `problem`."""
        with self._errors("read"):
            return _read_folder(self._location) if isinstance(self._location, Path) else _read_bucket(self._location)

    def run(self, name: str) -> StoredRun | None:
        """The run of this name; None if it does not exist."""
        with self._errors("read", name):
            if isinstance(self._location, Path):
                return read_run(self._location / name)
            return next(iter(_read_bucket(self._location, name)), None)

    def lock(self, name: str, *, lease: float = LEASE, on_loss: Callable[[], object] = leave) -> Lock:
        """Locks a run, so that only one of all processes that use the store writes to it.

        In a folder, the lock is released when its process ends, on any machine. In a bucket, it expires if its holder
        has not renewed it for the length of the lease; it takes a few seconds to see whether the holder is alive.

        Args:
            name: name of the run, which need not exist yet.
            lease: length of the lease in seconds (buckets only).
            on_loss: called if another process has taken over the expired lock of this one (buckets only); by default
                the process ends at once with the status `errors.TAKEN_OVER`.

        Raises:
            Locked: another process has the lock. The exit status is `errors.LOCKED`.
            InputError: the store cannot be written or does not support locks.
        """
        with self._errors("locked", name):
            return self._locks.lock(name, lease, on_loss)

    def holder(self, name: str) -> str | None:
        """The holder of the lock of a run, as "pid 123 on HOST"; None if it is free."""
        with self._errors("read", name):
            return self._locks.holder(name)

    def locked(self) -> dict[str, str]:
        """The locked runs: name -> "pid 123 on HOST"."""
        with self._errors("read"):
            names = sorted(self._locks.names())
            return {name: holder for name in names if (holder := self._locks.holder(name)) is not None}

    def upload(self, folder: Path, name: str | None = None) -> None:
        """Uploads the changes of a run folder to a bucket: changed files, and removals.

        Only the files of a run are uploaded (`files.RUN_FILES`); other files are not touched. Metrics are uploaded
        last, so that the weights of every listed epoch exist. The name of the run in the store is by default that of
        the folder.

        Raises:
            InputError: the store cannot be written, or is a folder, in which runs are trained directly.
        """
        if isinstance(self._location, Path):
            raise InputError(f"{self.address} is a folder, not a bucket to upload to; train in it, or copy the run")
        name = folder.name if name is None else name
        with self._errors("written", name):
            upload_run(self._location, folder, name)

    def fetch(self, name: str, into: Path | None = None, *, checkpoints: bool = True) -> Path:
        """The run as a folder on this machine, downloaded to `into/name` if it is in a bucket.

        Files that are up to date are not downloaded again. If several processes of a machine need the run, one of them
        downloads it. `into` is by default in the `cache`; only resuming needs `checkpoints`.

        Raises:
            MissingRun: the run does not exist.
        """
        into = self.cache / "runs" if into is None else into
        with self._errors("read", name):
            if isinstance(self._location, Path):
                folder = self._location / name
                exists = folder.is_dir()
            else:
                folder = into / name
                into.mkdir(parents=True, exist_ok=True)
                with FileLock(into / f".{name}.lock"):
                    exists = fetch_run(self._location, name, folder, checkpoints=checkpoints)
        if not exists:
            raise MissingRun(f"there is no run {name} in {self.address}")
        return folder

    @property
    def cache(self) -> Path:
        """Local folder for the files of a bucket, in `$REGARD_CACHE` or the user's cache."""
        variable = os.environ.get("REGARD_CACHE")
        cache = Path(variable or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "regard"))
        return cache / "stores" / hashlib.sha256(self.address.encode()).hexdigest()[:16]

    def log(self, name: str) -> Path:
        """Path of the local log file of a run, `.logs/NAME.log` in a folder, else in the cache; creates its folder."""
        folder = self.cache / "logs" if self.folder is None else self.folder / ".logs"
        with self._errors("written", name):
            folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.log"

    @contextmanager
    def _errors(self, action: str, name: str = "run") -> Iterator[None]:
        """Checks the name of a run. Within the context, every error of the file system becomes an InputError."""
        if not name or name.startswith(".") or "/" in name or os.sep in name:
            raise InputError(
                f"{name!r} is no name of a run; expected the name of a folder that does not begin with a dot"
            )
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the store {self.address} cannot be {action} ({first_line(error)})") from error


def is_address(text: str) -> bool:
    """Whether a text is an address such as `s3://bucket/runs`, not a path."""
    return re.match(r"[A-Za-z][\w+.-]*://", text) is not None


def split_address(address: str) -> tuple[Store, str]:
    """The store and the name of the run at an address such as `s3://bucket/runs/NAME`."""
    parent, _, name = address.rstrip("/").rpartition("/")
    if parent.endswith(("/", ":")):
        raise InputError(
            f"{address} is no address of a run; expected the address of a store and a name, as in s3://bucket/runs/NAME"
        )
    return Store(parent), name


def local_run(source: str) -> str:
    """Downloads the run at an address such as `s3://bucket/runs/NAME` without checkpoints; returns other sources as is.

    Raises MissingRun if the run does not exist, and InputError if it cannot be downloaded.
    """
    if not is_address(source):
        return source
    store, name = split_address(source)
    return str(store.fetch(name, checkpoints=False))


def _open_location(address: str) -> Path | Bucket:
    if "::" in address and "://" in address:
        raise InputError(f"{address} is a chain of addresses; expected one address, such as {address.split('::')[-1]}")
    if not is_address(address):
        return _store_folder(Path(address))
    try:
        system, root = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise InputError(f"{address} needs a library that is not installed: {one_line(error)}") from error
    except Exception as error:  # errors depend on the file system
        raise InputError(f"{address} is no address of a store: {one_line(error)}") from error
    if isinstance(system, LocalFileSystem):
        return _store_folder(Path(root))
    bucket = Bucket(system, root)
    try:
        bucket.exists()
    except Exception as error:
        raise InputError(f"the store {address} cannot be reached ({first_line(error)})") from error
    return bucket


def _store_folder(folder: Path) -> Path:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a store is a folder of run folders")
    return folder


def _read_folder(folder: Path) -> list[StoredRun]:
    """All runs, by name."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name[0] != ".")
    start = time.perf_counter()
    runs = [read_run(folder / name) for name in names[:_SAMPLE]]
    if time.perf_counter() - start > _SLOW * _SAMPLE:
        with ThreadPoolExecutor(_THREADS) as threads:
            runs += threads.map(lambda name: read_run(folder / name), names[_SAMPLE:])
    else:
        runs += [read_run(folder / name) for name in names[_SAMPLE:]]
    return [run for run in runs if run is not None]


def _read_bucket(bucket: Bucket, name: str = "") -> list[StoredRun]:
    """All runs, or one of them, by name."""
    runs: dict[str, dict[str, int]] = defaultdict(dict)
    for path, (size, _) in bucket.files(name).items():
        run, _, file = f"{name}/{path}".lstrip("/").partition("/")
        runs[run][CHECKPOINTS if file.startswith(f"{CHECKPOINTS}/") else file] = size

    def content(run: str, file: str) -> bytes:
        size = runs[run].get(file)
        if size is None:
            raise FileNotFoundError
        if size > MAX_BYTES:
            raise OSError(f"it is larger than {MAX_BYTES:,} bytes")
        try:
            return bucket.read(f"{run}/{file}")
        except Exception as error:
            raise OSError(first_line(error)) from error

    def read(run: str) -> StoredRun:
        return parse_run(run, partial(content, run), weights=WEIGHTS in runs[run])

    names = sorted(run for run, files in runs.items() if run[:1] not in ("", ".") and files.keys() & RUN_MARKERS)
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(read, names))
