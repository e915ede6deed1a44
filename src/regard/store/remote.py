"""A store at any address of fsspec: an object store, a server, memory."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from fsspec import AbstractFileSystem

from regard.errors import first_line
from regard.store.place import CHECKPOINTS, READ, WEIGHTS, Place, Seen, Stamp, is_run

_T = TypeVar("_T")

_PAUSES = (0.5, 2.0)  # seconds before what failed is tried again
_THREADS = 16
_COARSE = 60.0  # seconds: how far the clock of a server that only says times may be off, and how coarse they may be
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "generation")
_TIMES = ("mtime", "LastModified", "last_modified", "modified", "updated", "last_write_time", "created")
# An object appears in these at once, when all of it is there.
_ATOMIC = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "obs", "r2"}


class RemotePlace(Place):
    """Files of a file system of fsspec below a path of it."""

    pause = 0.3

    def __init__(self, system: AbstractFileSystem, root: str, address: str) -> None:
        self._system, self._root = system, root.rstrip("/")
        self.address = address.rstrip("/")  # as given: file systems do not give the name of a server back
        protocols = system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)
        self._atomic = bool(_ATOMIC & set(protocols))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def exists(self) -> bool:
        self._system.invalidate_cache()
        try:  # not by its own `exists`, which may say no to an address that cannot be reached
            return self._tried(lambda: bool(self._system.info(self._root or "/")))
        except FileNotFoundError:
            return False

    def runs(self) -> dict[str, Seen]:
        folders: dict[str, dict[str, Stamp]] = {}
        for path, stamp in self.files("").items():
            name, _, file = path.partition("/")
            if not name.startswith("."):
                first = file.partition("/")[0]
                folders.setdefault(name, {})[first if first == CHECKPOINTS else file] = stamp
        found = {}
        for name, files in folders.items():
            if is_run(files):
                recipe, metrics, environment = (files.get(file) for file in READ)
                found[name] = Seen(recipe, metrics, environment, WEIGHTS in files)
        return found

    def files(self, path: str) -> dict[str, Stamp]:
        self._system.invalidate_cache()
        root = self._at(path)
        try:
            found = self._tried(lambda: self._system.find(root, detail=True))
        except FileNotFoundError:
            return {}
        files = {name[len(root) :].strip("/"): _stamp(about) for name, about in found.items()}
        # What another's tools may have put into an object store, and no path below a folder can be.
        return {name: stamp for name, stamp in files.items() if not {"", ".", ".."} & set(name.split("/"))}

    def names(self, path: str) -> list[str]:
        self._system.invalidate_cache()
        try:
            found = self._tried(lambda: self._system.ls(self._at(path), detail=False))
        except FileNotFoundError:
            return []
        return [name.rstrip("/").rpartition("/")[2] for name in found]

    def read(self, path: str) -> bytes | None:
        try:
            return self._tried(lambda: bytes(self._system.cat_file(self._at(path))))
        except FileNotFoundError:
            return None

    def read_each(self, paths: Sequence[str]) -> Iterator[bytes | OSError | None]:
        # Not the file system's own reading of many files, which takes [ and * in their names for patterns.
        with ThreadPoolExecutor(_THREADS) as threads:
            yield from threads.map(self._read_or_error, paths)

    def _read_or_error(self, path: str) -> bytes | OSError | None:
        try:
            return self.read(path)
        except OSError as error:
            return error

    def write(self, path: str, content: bytes) -> None:
        def send(to: str) -> None:
            self._system.pipe_file(to, content)

        # In place where it cannot be moved over what is there: who reads a small file in that moment reads a part of
        # it, which for claims, index and metrics is no harm, as a claim that is missing for a moment would be.
        self._tried(lambda: self._whole(path, send, instead=lambda _, target: send(target)))

    def put(self, source: Path, path: str) -> None:
        def instead(aside: str, target: str) -> None:
            self._system.rm_file(target)
            self._system.mv(aside, target)

        self._tried(lambda: self._whole(path, lambda to: self._system.put_file(str(source), to), instead))

    def _whole(self, path: str, send: Callable[[str], object], instead: Callable[[str, str], object]) -> None:
        """Sends a file aside and moves it in its place, except where files appear whole in any case."""
        target = self._at(path)
        if self._atomic:
            send(target)
            return
        folder, _, name = target.rpartition("/")
        if folder:
            self._system.makedirs(folder, exist_ok=True)
        aside = f"{folder}/.{name}.{uuid.uuid4().hex}.part"
        try:
            send(aside)
            if type(self._system).mv is AbstractFileSystem.mv:  # it takes [ and * in names for patterns
                self._system.cp_file(aside, target)
            else:
                try:
                    self._system.mv(aside, target)
                    return
                except Exception:  # some do not move to where a file is
                    instead(aside, target)
        finally:
            with suppress(Exception):
                self._system.rm_file(aside)

    def get(self, path: str, target: Path) -> None:
        self._tried(lambda: self._system.get_file(self._at(path), str(target)))

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._tried(lambda: self._system.rm_file(self._at(path)))

    def clock(self) -> float:
        return time.time()

    def settled(self, stamp: Stamp, clock: float) -> bool:
        kind, _, value = str(stamp[1]).partition(" ")
        try:
            return kind == "tag" or (kind == "time" and float(value) < clock - _COARSE)
        except ValueError:
            return False

    def _tried(self, work: Callable[[], _T]) -> _T:
        """What `work` gives, which is tried again a few times if the file system is not to be reached."""
        for pause in (*_PAUSES, None):
            try:
                return work()
            except (FileNotFoundError, PermissionError):
                raise
            except Exception as error:  # every file system has errors of its own
                if pause is None:
                    raise OSError(first_line(error)) from error
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")


def _stamp(about: Mapping[str, Any]) -> Stamp:
    size = int(about.get("size") or 0)
    for key in _TAGS:
        if about.get(key):
            return size, f"tag {about[key]}"
    for key in _TIMES:
        if about.get(key):
            value = about[key]
            return size, f"time {value.timestamp() if isinstance(value, datetime) else value}"
    return size, ""
