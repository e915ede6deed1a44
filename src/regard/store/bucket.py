"""Files at an address of fsspec: an object store, a server, memory."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

from regard.errors import InputError

_VERSIONS = ("ETag", "etag", "checksum", "mtime", "last_modified", "modified", "created")
"""Keys under which file systems report the version of a file, the best first."""


class Bucket:
    """The files below an address. Paths are relative to it, with `/`.

    If the address cannot be reached, errors depend on the file system.

    Args:
        system: the file system of fsspec.
        root: the address in the notation of the file system.
    """

    def __init__(self, system: AbstractFileSystem, root: str) -> None:
        self.system, self.root = system, root.rstrip("/")

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def exists(self, path: str = "") -> bool:
        self.system.invalidate_cache()
        try:  # `exists` of a file system may return False if the address cannot be reached
            return bool(self.system.info(self._at(path) or "/"))
        except FileNotFoundError:
            return False

    def files(self, folder: str = "") -> dict[str, tuple[int, str]]:
        """All files below a folder: relative path -> (size in bytes, version tag)."""
        self.system.invalidate_cache()
        root = self._at(folder)
        try:
            infos = self.system.find(root, detail=True)
        except FileNotFoundError:
            return {}
        return {path[len(root) :].strip("/"): _version(info) for path, info in infos.items()}

    def version(self, path: str) -> tuple[int, str]:
        self.system.invalidate_cache()
        return _version(self.system.info(self._at(path)))

    def read(self, path: str) -> bytes:
        return bytes(self.system.cat_file(self._at(path)))

    def write(self, path: str, content: bytes) -> None:
        self.system.pipe_file(self._at(path), content)

    def create(self, path: str, content: bytes) -> bool:
        """Creates a file if it does not exist; returns whether it did.

        Raises:
            InputError: the file system has no conditional writes.
        """
        system, target = self.system, self._at(path)
        kind = system.protocol if isinstance(system.protocol, str) else system.protocol[0]
        refusal = f"{kind} has no conditional writes, by which runs are locked; give a folder, or S3, GCS or the like"
        if not system.async_impl and type(system).pipe_file is AbstractFileSystem.pipe_file:
            raise InputError(refusal)  # checks first and then writes, which is not atomic
        try:
            system.pipe_file(target, content, mode="create")
        except Exception:  # the error for an existing file depends on the file system
            if self.exists(path):
                return False
            raise
        try:
            system.pipe_file(target, content, mode="create")
        except Exception:
            return True
        raise InputError(refusal)  # the condition was ignored

    def put(self, source: Path, path: str) -> None:
        self.system.put_file(str(source), self._at(path))

    def get(self, path: str, target: Path) -> None:
        self.system.get_file(self._at(path), str(target))

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self.system.rm_file(self._at(path))


def _version(info: dict[str, Any]) -> tuple[int, str]:
    tag = next((info[key] for key in _VERSIONS if info.get(key)), "")
    return int(info.get("size") or 0), str(tag.timestamp() if isinstance(tag, datetime) else tag)
