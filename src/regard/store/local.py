"""A store in a folder of this machine, which may be shared with others over the network."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from regard.files import MOST_BYTES, beside, read_regular
from regard.store.place import CHECKPOINTS, READ, WEIGHTS, Place, Seen, Stamp
from regard.store.reading import Reader
from regard.store.stored import StoredRun

_T = TypeVar("_T")

_SAMPLE = 64  # folders that are looked at to see how quick the disk is
_SLOW = 1e-3  # seconds for one; above that many are looked at side by side
_THREADS = 16
_TRIES = 10
_COARSE = 2_000_000_000  # nanoseconds: the coarsest times that file systems keep


class LocalPlace(Place):
    """A folder."""

    pause = 0.01

    def __init__(self, folder: Path) -> None:
        self.folder: Path = folder
        self.address = str(folder)
        self._root = os.path.abspath(folder)  # the address stays where it is if the process changes its folder
        self._slow = False

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def exists(self) -> bool:
        return os.path.isdir(self._root)

    def runs(self) -> dict[str, Seen]:
        try:
            with os.scandir(self._root) as entries:
                names = [entry.name for entry in entries if entry.name[0] != "." and _is_folder(entry)]
        except FileNotFoundError:
            return {}
        began = time.perf_counter()
        found = [self._seen(name) for name in names[:_SAMPLE]]
        self._slow = time.perf_counter() - began > _SLOW * _SAMPLE
        found += self._each(self._seen, names[_SAMPLE:])
        return {name: seen for name, seen in zip(names, found, strict=True) if seen is not None}

    def _seen(self, name: str) -> Seen | None:
        folder = f"{self._root}/{name}/"
        recipe, metrics, environment = (_stamp(folder + file) for file in READ)
        if recipe is None and metrics is None and not os.path.isdir(folder + CHECKPOINTS):
            return None
        return Seen(recipe, metrics, environment, os.path.exists(folder + WEIGHTS))

    def files(self, path: str) -> dict[str, Stamp]:
        root = self._at(path)
        found = {}
        for folder, _, names in os.walk(root):
            inside = Path(folder).relative_to(root)
            for name in names:
                stamp = _stamp(f"{folder}/{name}")
                if stamp is not None:
                    found[(inside / name).as_posix()] = stamp
        return found

    def names(self, path: str) -> list[str]:
        try:
            return os.listdir(self._at(path))
        except FileNotFoundError:
            return []

    def read(self, path: str) -> bytes | None:
        try:
            return read_regular(self._at(path), MOST_BYTES)
        except FileNotFoundError:
            return None

    def read_each(self, paths: Sequence[str]) -> Iterator[bytes | OSError | None]:
        return self._each(self._read_or_error, paths)

    def _read_or_error(self, path: str) -> bytes | OSError | None:
        try:
            return self.read(path)
        except OSError as error:
            return error

    def _each(self, work: Callable[[str], _T], paths: Sequence[str]) -> Iterator[_T]:
        """What `work` gives for each, in order; side by side if each waits for a disk over the network."""
        if not self._slow:
            yield from map(work, paths)
            return
        with ThreadPoolExecutor(_THREADS) as threads:
            yield from threads.map(work, paths)

    def write(self, path: str, content: bytes) -> None:
        def fill(aside: Path) -> None:
            aside.write_bytes(content)

        self._whole(path, fill)

    def put(self, source: Path, path: str) -> None:
        def fill(aside: Path) -> None:
            shutil.copyfile(source, aside)
            with open(aside, "rb+") as file:
                os.fsync(file.fileno())

        os.stat(source)
        self._whole(path, fill)

    def _whole(self, path: str, fill: Callable[[Path], None]) -> None:
        # Not `files.written_aside`, which waits for the disk: for a claim every few seconds that is too much.
        target = self._at(path)
        for left in reversed(range(_TRIES)):
            try:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with beside(Path(target)) as aside:
                    fill(aside)
                    os.replace(aside, target)
                return
            except (FileNotFoundError, FileExistsError):  # another removed the folder, which was empty
                if not left:
                    raise

    def get(self, path: str, target: Path) -> None:
        shutil.copyfile(self._at(path), target)

    def remove(self, path: str) -> None:
        target = self._at(path)
        with suppress(FileNotFoundError):
            os.unlink(target)
        with suppress(OSError):  # there is something else in a folder
            while path := os.path.dirname(path):
                os.rmdir(self._at(path))

    def clock(self) -> float:
        with suppress(OSError), beside(Path(self._root, "clock")) as aside:
            aside.touch()
            return aside.stat().st_mtime
        return time.time()

    def settled(self, stamp: Stamp, clock: float) -> bool:
        return isinstance(stamp[1], int) and stamp[1] < clock * 1e9 - _COARSE


def read_folder(reader: Reader, folder: Path) -> StoredRun:
    """A run folder on this machine, wherever it lies."""
    contents = LocalPlace(folder).read_each(READ)
    return reader.read(folder.name, *contents, weights=(folder / WEIGHTS).is_file()).run


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
