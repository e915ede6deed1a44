"""Uploads run folders to a bucket and downloads them; only changed files are transferred.

`.manifest.json` in the folder records the local and the remote version of each transferred file.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from regard.files import MOST_BYTES, RUN_FILES, read_regular, written_aside, written_files
from regard.store.bucket import Bucket
from regard.store.runs import CHECKPOINTS

_MANIFEST = ".manifest.json"
_METRICS, _FIRST = "metrics.jsonl", ("recipe.yaml", "environment.json")
_PATTERNS = (*_FIRST, *(name for name in RUN_FILES if not name.startswith(".")))


def upload(bucket: Bucket, folder: Path, name: str) -> None:
    """Uploads what changed in a run folder since its last transfer, and removes from the bucket what was removed here.

    Metrics are uploaded last, so that the weights of every listed epoch exist. Old checkpoints are removed after newer
    ones were uploaded. If the upload is interrupted, the next call uploads the rest.
    """
    manifest, local, remote = _load(folder, bucket, name), _local(folder), _remote(bucket, name)
    removed = [
        path for path in remote if path not in local and (not manifest or path in manifest or _is_checkpoint(path))
    ]
    try:
        if _METRICS in removed:
            bucket.remove(f"{name}/{_METRICS}")  # metrics of another run
        for path in sorted(local, key=lambda path: (path == _METRICS, path not in _FIRST, path)):
            version = _version(local[path])
            if path not in remote or manifest.get(path) != [version, remote[path]]:
                bucket.put(local[path], f"{name}/{path}")
                manifest[path] = [version, list(bucket.version(f"{name}/{path}"))]
        for path in removed:
            bucket.remove(f"{name}/{path}")
            manifest.pop(path, None)
    finally:
        _save(folder, bucket, name, {path: both for path, both in manifest.items() if path in local or path in remote})


def fetch(bucket: Bucket, name: str, folder: Path, *, checkpoints: bool) -> bool:
    """Downloads the files of a run that the folder lacks; returns whether the run exists.

    A file that did not change in the bucket since the last transfer is kept: here it is the same or newer.
    """
    manifest = _load(folder, bucket, name)
    metrics = bucket.read(f"{name}/{_METRICS}") if bucket.exists(f"{name}/{_METRICS}") else None
    remote = {path: tag for path, tag in _remote(bucket, name).items() if checkpoints or not _is_checkpoint(path)}
    if not remote:
        if manifest:  # it was removed from the bucket
            shutil.rmtree(folder, ignore_errors=True)
        return False
    unchanged = remote == {path: tag for path, (_, tag) in manifest.items()}
    for path in sorted(remote, key=lambda path: (path == _METRICS, path)):
        target = folder / path
        if unchanged and (target.is_file() or _is_checkpoint(path)):  # a missing checkpoint was removed here
            continue
        if target.is_file() and manifest.get(path) == [_version(target), remote[path]]:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(target) as aside:
            if path == _METRICS and metrics is not None:  # as read before the weights
                aside.write_bytes(metrics)
            else:
                bucket.get(f"{name}/{path}", aside)
        manifest[path] = [_version(target), remote[path]]
    if not unchanged:
        for path, file in _local(folder).items():
            if path not in remote and (path in manifest or _is_checkpoint(path)):
                file.unlink()
    _save(folder, bucket, name, {path: both for path, both in manifest.items() if path in remote})
    return True


def _local(folder: Path) -> dict[str, Path]:
    """The files of a run folder; other files belong to the user."""
    return {path.relative_to(folder).as_posix(): path for path in written_files(folder, _PATTERNS)}


def _remote(bucket: Bucket, name: str) -> dict[str, list[Any]]:
    """The files of a run in the bucket and their versions."""
    return {path: list(version) for path, version in bucket.files(name).items() if _is_of_a_run(path)}


def _is_of_a_run(path: str) -> bool:
    inside = ".." not in path.split("/")
    return inside and any(path.count("/") == one.count("/") and fnmatchcase(path, one) for one in _PATTERNS)


def _is_checkpoint(path: str) -> bool:
    return path.startswith(f"{CHECKPOINTS}/")


def _version(path: Path) -> list[int]:
    """The version of a file. It changes when the file is replaced; files of a run are never edited in place."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _load(folder: Path, bucket: Bucket, name: str) -> dict[str, list[Any]]:
    """The local and remote version of each file, by path; empty if the folder was of another run."""
    try:
        content = json.loads(read_regular(folder / _MANIFEST, MOST_BYTES))
        if content["run"] == [bucket.root, name]:
            return {path: [list(local), list(remote)] for path, (local, remote) in content["files"].items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        pass
    return {}


def _save(folder: Path, bucket: Bucket, name: str, manifest: dict[str, list[Any]]) -> None:
    with (
        suppress(OSError),
        written_aside(folder / _MANIFEST) as aside,
    ):  # without it, the next transfer copies all files
        aside.write_text(json.dumps({"run": [bucket.root, name], "files": manifest}))
