"""Files at an address of fsspec (an object store, a server, memory), and upload and download of run folders.

Only changed files are transferred: `.manifest.json` in a run folder records the local and the remote version of each
transferred file.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

from regard.errors import InputError
from regard.files import MAX_BYTES, RUN_FILES, atomic_write, matching_files, read_regular
from regard.store.runs import CHECKPOINTS

_VERSION_KEYS = ("ETag", "etag", "checksum", "mtime", "last_modified", "modified", "created")
"""Keys under which file systems report the version of a file, the most reliable first."""
_MANIFEST = ".manifest.json"
_METRICS, _FIRST = "metrics.jsonl", ("recipe.yaml", "environment.json")
_PATTERNS = (*_FIRST, *(name for name in RUN_FILES if not name.startswith(".")))


class Bucket:
    """The files below `root`, an address in the notation of an fsspec file system. Paths are relative to it, with `/`.

    If the address cannot be reached, the type of the error depends on the file system.
    """

    def __init__(self, system: AbstractFileSystem, root: str) -> None:
        self.system, self.root = system, root.rstrip("/")

    def _full_path(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def exists(self, path: str = "") -> bool:
        self.system.invalidate_cache()
        try:  # fsspec's `exists` may return False if the address cannot be reached
            return bool(self.system.info(self._full_path(path) or "/"))
        except FileNotFoundError:
            return False

    def files(self, folder: str = "") -> dict[str, list[Any]]:
        """All files below a folder: relative path -> version, which is [size in bytes, tag]."""
        self.system.invalidate_cache()
        root = self._full_path(folder)
        try:
            infos = self.system.find(root, detail=True)
        except FileNotFoundError:
            return {}
        return {path[len(root) :].strip("/"): _version(info) for path, info in infos.items()}

    def version(self, path: str) -> list[Any]:
        self.system.invalidate_cache()
        return _version(self.system.info(self._full_path(path)))

    def read(self, path: str) -> bytes:
        return bytes(self.system.cat_file(self._full_path(path)))

    def write(self, path: str, content: bytes) -> None:
        self.system.pipe_file(self._full_path(path), content)

    def create(self, path: str, content: bytes) -> bool:
        """Creates a file if it does not exist; returns whether it did.

        Raises InputError if the file system has no conditional writes.
        """
        system, target = self.system, self._full_path(path)
        protocol = system.protocol if isinstance(system.protocol, str) else system.protocol[0]
        refusal = f"{protocol} has no conditional writes, which lock runs; give a folder, or a store such as S3 or GCS"
        if not system.async_impl and type(system).pipe_file is AbstractFileSystem.pipe_file:
            raise InputError(refusal)  # its check and its write are not one atomic operation
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
        self.system.put_file(str(source), self._full_path(path))

    def get(self, path: str, target: Path) -> None:
        self.system.get_file(self._full_path(path), str(target))

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self.system.rm_file(self._full_path(path))


def _version(info: dict[str, Any]) -> list[Any]:
    tag = next((info[key] for key in _VERSION_KEYS if info.get(key)), "")
    return [int(info.get("size") or 0), str(tag.timestamp() if isinstance(tag, datetime) else tag)]


def upload_run(bucket: Bucket, folder: Path, name: str) -> None:
    """Uploads the changes of a run folder since its last transfer, including removals, to a bucket.

    Metrics are uploaded last, so that the weights of every listed epoch exist. Old checkpoints are deleted after newer
    ones were uploaded. After an interruption, the next call uploads the rest.
    """
    manifest, local, remote = _load_manifest(folder, bucket, name), _local_files(folder), _remote_files(bucket, name)
    removed = [
        path for path in remote if path not in local and (not manifest or path in manifest or _is_checkpoint(path))
    ]
    try:
        if _METRICS in removed:
            bucket.remove(f"{name}/{_METRICS}")  # metrics of another run
        for path in sorted(local, key=lambda path: (path == _METRICS, path not in _FIRST, path)):
            version = _local_version(local[path])
            if path not in remote or manifest.get(path) != [version, remote[path]]:
                bucket.put(local[path], f"{name}/{path}")
                manifest[path] = [version, bucket.version(f"{name}/{path}")]
        for path in removed:
            bucket.remove(f"{name}/{path}")
            manifest.pop(path, None)
    finally:
        entries = {path: versions for path, versions in manifest.items() if path in local or path in remote}
        _save_manifest(folder, bucket, name, entries)


def fetch_run(bucket: Bucket, name: str, folder: Path, *, checkpoints: bool) -> bool:
    """Downloads the files of a run that the folder lacks; returns whether the run exists.

    Files that have not changed in the bucket since the last transfer are kept: the local file is the same or newer.
    """
    manifest = _load_manifest(folder, bucket, name)
    metrics = bucket.read(f"{name}/{_METRICS}") if bucket.exists(f"{name}/{_METRICS}") else None
    remote = {path: tag for path, tag in _remote_files(bucket, name).items() if checkpoints or not _is_checkpoint(path)}
    if not remote:
        if manifest:  # the run was removed from the bucket
            shutil.rmtree(folder, ignore_errors=True)
        return False
    unchanged = remote == {path: tag for path, (_, tag) in manifest.items()}
    for path in sorted(remote, key=lambda path: (path == _METRICS, path)):
        target = folder / path
        if unchanged and (target.is_file() or _is_checkpoint(path)):  # a missing checkpoint was removed locally
            continue
        if target.is_file() and manifest.get(path) == [_local_version(target), remote[path]]:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            if path == _METRICS and metrics is not None:  # read before the weights
                temporary.write_bytes(metrics)
            else:
                bucket.get(f"{name}/{path}", temporary)
        manifest[path] = [_local_version(target), remote[path]]
    if not unchanged:
        for path, file in _local_files(folder).items():
            if path not in remote and (path in manifest or _is_checkpoint(path)):
                file.unlink()
    _save_manifest(folder, bucket, name, {path: versions for path, versions in manifest.items() if path in remote})
    return True


def _local_files(folder: Path) -> dict[str, Path]:
    """The files of a run folder."""
    return {path.relative_to(folder).as_posix(): path for path in matching_files(folder, _PATTERNS)}


def _remote_files(bucket: Bucket, name: str) -> dict[str, list[Any]]:
    """The files of a run in the bucket and their versions, without files of the user."""

    def is_run_file(path: str) -> bool:
        patterns = (pattern for pattern in _PATTERNS if pattern.count("/") == path.count("/"))
        return ".." not in path.split("/") and any(fnmatchcase(path, pattern) for pattern in patterns)

    return {path: version for path, version in bucket.files(name).items() if is_run_file(path)}


def _is_checkpoint(path: str) -> bool:
    return path.startswith(f"{CHECKPOINTS}/")


def _local_version(path: Path) -> list[int]:
    """The version of a file. It changes if the file is replaced; files of a run are never edited in place."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _load_manifest(folder: Path, bucket: Bucket, name: str) -> dict[str, list[Any]]:
    """The local and remote version of each file, by path; empty if the folder belongs to another run."""
    with suppress(OSError, ValueError, TypeError, LookupError, AttributeError):
        content = json.loads(read_regular(folder / _MANIFEST, MAX_BYTES))
        if content["run"] == [bucket.root, name]:
            return {path: [list(local), list(remote)] for path, (local, remote) in content["files"].items()}
    return {}


def _save_manifest(folder: Path, bucket: Bucket, name: str, manifest: dict[str, list[Any]]) -> None:
    with suppress(OSError), atomic_write(folder / _MANIFEST) as temporary:  # without it, all files are copied again
        temporary.write_text(json.dumps({"run": [bucket.root, name], "files": manifest}))
