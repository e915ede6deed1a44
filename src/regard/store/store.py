"""A store of runs: run folders under one address, which many machines may use at a time."""

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
from regard.files import MOST_BYTES
from regard.store import transfer
from regard.store.bucket import Bucket
from regard.store.locks import LEASE, BucketLocks, FolderLocks, Lock, leave
from regard.store.runs import CHECKPOINTS, MAKES_A_RUN, WEIGHTS, StoredRun, parse_run, read_run

_THREADS = 16
_SAMPLE = 64  # runs that tell how fast a disk is
_SLOW = 2e-3  # seconds for one: over the network, where runs are read side by side


class MissingRun(InputError):
    """There is no run of that name."""


class Store:
    """The run folders directly below an address, of this machine or not.

    Hidden names, which begin with a dot, and other folders are not runs. Locks and logs lie below hidden names; they
    may be removed while nobody works.

    All methods raise InputError where the store cannot be reached, and for what is no name of a run.

    Args:
        address: a folder, which need not be there yet, or an address of fsspec: `s3://bucket/runs`, `gs://…`,
            `file:///…`, `memory://…`.

    Attributes:
        address: as given; of a folder without a slash at the end.
        folder: if the store is a folder of this machine; else None.

    Raises:
        InputError: no file system has such addresses, the library for it is missing, or it cannot be reached.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        self._location = _open(os.fspath(address))
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
        """Whether there is anything at the address."""
        with self._reached("read"):
            return self._location.is_dir() if isinstance(self._location, Path) else self._location.exists()

    def runs(self) -> list[StoredRun]:
        """All runs, by name. What cannot be read of a single one is its `problem`."""
        with self._reached("read"):
            return _read_folder(self._location) if isinstance(self._location, Path) else _read_bucket(self._location)

    def run(self, name: str) -> StoredRun | None:
        """One run; None if there is none of that name."""
        with self._reached("read", name):
            if isinstance(self._location, Path):
                return read_run(self._location / name)
            return next(iter(_read_bucket(self._location, name)), None)

    def lock(self, name: str, *, lease: float = LEASE, on_loss: Callable[[], object] = leave) -> Lock:
        """The right to work at a run, which one process at a time has, of all that use the store.

        In a folder it is free as soon as its process is gone, on whatever machine that was. In a bucket it is free
        once its holder has given no sign of life for the time of the lease; who is still alive is seen after a few
        seconds.

        Args:
            name: of the run, which need not be there yet.
            lease: seconds, of a bucket.
            on_loss: called if another took over the lock of a process that had stood still in a bucket; by default
                the process ends at once, with the status `errors.TAKEN_OVER`.

        Raises:
            Locked: another process has it. Its status is `errors.LOCKED`.
            InputError: the store cannot be written or has no locks.
        """
        with self._reached("locked", name):
            return self._locks.lock(name, lease, on_loss)

    def holder(self, name: str) -> str | None:
        """Who works at a run, as "pid 123 on HOST"; None: nobody."""
        with self._reached("read", name):
            return self._locks.holder(name)

    def locked(self) -> dict[str, str]:
        """Who works at which run: run -> "pid 123 on HOST"."""
        with self._reached("read"):
            names = sorted(self._locks.names())
            return {name: holder for name in names if (holder := self._locks.holder(name)) is not None}

    def upload(self, folder: Path, name: str | None = None) -> None:
        """Uploads what changed in a run folder to a bucket, and removes there what was removed here.

        Only the files of a run are uploaded (`files.RUN_FILES`); others at either end stay. Metrics go last, so that no
        reader finds an epoch whose weights are not there.

        Args:
            folder: of the run.
            name: in the store; the folder's if not given.

        Raises:
            InputError: the store cannot be written, or is a folder, whose runs are trained where they lie.
        """
        if isinstance(self._location, Path):
            raise InputError(f"{self.address} is a folder, and nothing is uploaded to it; train in it, or copy the run")
        name = folder.name if name is None else name
        with self._reached("written", name):
            transfer.upload(self._location, folder, name)

    def fetch(self, name: str, into: Path | None = None, *, checkpoints: bool = True) -> Path:
        """A run folder on this machine: of a folder the run's own, of a bucket `into/name`.

        Only what is not here already is downloaded, and only once if several processes of a machine want it.

        Args:
            name: of the run.
            into: a folder; `cache` if not given.
            checkpoints: whether they come along, without which a run can be looked at but not resumed.

        Raises:
            MissingRun: there is no such run.
        """
        into = self.cache / "runs" if into is None else into
        with self._reached("read", name):
            if isinstance(self._location, Path):
                place = self._location / name
                there = place.is_dir()
            else:
                place = into / name
                into.mkdir(parents=True, exist_ok=True)
                with FileLock(into / f".{name}.lock"):
                    there = transfer.fetch(self._location, name, place, checkpoints=checkpoints)
        if not there:
            raise MissingRun(f"there is no run {name} in {self.address}")
        return place

    @property
    def cache(self) -> Path:
        """The folder of this machine for what belongs to a bucket: below `$REGARD_CACHE`, or the person's cache."""
        variable = os.environ.get("REGARD_CACHE")
        cache = Path(variable or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "regard"))
        return cache / "stores" / hashlib.sha256(self.address.encode()).hexdigest()[:16]

    def log(self, name: str) -> Path:
        """The file of this machine for what a run prints, `.logs/NAME.log` in a folder, else in the cache; its folder
        is there.
        """
        folder = self.cache / "logs" if self.folder is None else self.folder / ".logs"
        with self._reached("written", name):
            folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.log"

    @contextmanager
    def _reached(self, done: str, name: str = "run") -> Iterator[None]:
        """Checks the name of a run; within it, any error, for every file system has its own, is an InputError."""
        if not name or name.startswith(".") or "/" in name or os.sep in name:
            raise InputError(f"{name!r} is no name of a run: that is the name of a folder, without a dot in front")
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the store {self.address} cannot be {done} ({first_line(error)})") from error


def is_address(text: str) -> bool:
    """Whether a text is an address such as `s3://bucket/runs`, not a path."""
    return re.match(r"[A-Za-z][\w+.-]*://", text) is not None


def split_address(address: str) -> tuple[Store, str]:
    """The store and the name of a run at an address such as `s3://bucket/runs/NAME`."""
    above, _, name = address.rstrip("/").rpartition("/")
    if above.endswith(("/", ":")):
        raise InputError(
            f"{address} is no address of a run; expected a store's and a name, as in s3://bucket/runs/NAME"
        )
    return Store(above), name


def local_run(source: str) -> str:
    """The run at an address such as `s3://bucket/runs/NAME`, downloaded without checkpoints; other sources as they are.

    Raises:
        MissingRun: there is no such run.
        InputError: it cannot be downloaded.
    """
    if not is_address(source):
        return source
    store, name = split_address(source)
    return str(store.fetch(name, checkpoints=False))


def _open(address: str) -> Path | Bucket:
    if "::" in address and "://" in address:
        raise InputError(
            f"{address} is a chain of addresses; a store has one address, such as {address.split('::')[-1]}"
        )
    if not is_address(address):
        return _folder(Path(address))
    try:
        system, root = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise InputError(f"{address} needs a library that is not installed: {one_line(error)}") from error
    except Exception as error:  # every file system has errors of its own
        raise InputError(f"{address} is no address of a store: {one_line(error)}") from error
    if isinstance(system, LocalFileSystem):
        return _folder(Path(root))
    bucket = Bucket(system, root)
    try:
        bucket.exists()
    except Exception as error:
        raise InputError(f"the store {address} cannot be reached ({first_line(error)})") from error
    return bucket


def _folder(folder: Path) -> Path:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a store is a folder of run folders")
    return folder


def _read_folder(folder: Path) -> list[StoredRun]:
    """All runs, by name."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name[0] != ".")
    began = time.perf_counter()
    runs = [read_run(folder / name) for name in names[:_SAMPLE]]
    if time.perf_counter() - began > _SLOW * _SAMPLE:
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
        if size > MOST_BYTES:
            raise OSError(f"it is larger than {MOST_BYTES:,} bytes")
        try:
            return bucket.read(f"{run}/{file}")
        except Exception as error:
            raise OSError(first_line(error)) from error

    def read(run: str) -> StoredRun:
        return parse_run(run, partial(content, run), weights=WEIGHTS in runs[run])

    names = sorted(run for run, files in runs.items() if run[:1] not in ("", ".") and files.keys() & MAKES_A_RUN)
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(read, names))
