"""Run folders from this machine to a bucket and back, only what changed.

What was sent or brought is noted in the folder, in `.mirror.json`: for each file how it looked here, and there.
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
from regard.store.runs import CHECKPOINTS, READ

_NOTES = ".mirror.json"
_METRICS = "metrics.jsonl"
_TRAVEL = ("recipe.yaml", "environment.json", *(name for name in RUN_FILES if not name.startswith(".")))


def upload(bucket: Bucket, folder: Path, name: str) -> None:
    """Sends what changed in a run folder since it was last sent or brought, and removes what was removed here.

    Metrics go last, so that no reader finds an epoch whose weights are not there, and checkpoints are removed after
    the newer ones are there.

    If the bucket is away meanwhile, what was sent is there still, and the next call sends the rest.
    """
    notes = _load(folder, bucket, name)
    there = _stored(bucket, name)
    here = {path.relative_to(folder).as_posix(): path for path in written_files(folder, _TRAVEL)}
    gone = [path for path in there if path not in here and (not notes or path in notes or _is_checkpoint(path))]
    try:
        if _METRICS in gone:
            bucket.remove(f"{name}/{_METRICS}")  # another run's end is not this one's
        for path in sorted(here, key=lambda path: (path == _METRICS, path not in READ, path)):
            look = _look(here[path])
            if path not in there or notes.get(path) != [look, there[path]]:
                bucket.put(here[path], f"{name}/{path}")
                notes[path] = [look, list(bucket.version(f"{name}/{path}"))]
        for path in gone:
            bucket.remove(f"{name}/{path}")
            notes.pop(path, None)
    finally:
        _save(folder, bucket, name, {path: note for path, note in notes.items() if path in here or path in there})


def fetch(bucket: Bucket, name: str, folder: Path, *, checkpoints: bool) -> bool:
    """Brings a run here, only what is not here already; whether there is such a run.

    Where nothing changed in the bucket since the folder was last sent or brought, what is here is the same or further
    on, and stays.
    """
    notes = _load(folder, bucket, name)
    metrics = bucket.read(f"{name}/{_METRICS}") if bucket.exists(f"{name}/{_METRICS}") else None
    there = {path: tag for path, tag in _stored(bucket, name).items() if checkpoints or not _is_checkpoint(path)}
    if not there:
        if notes:  # it was removed from the bucket
            shutil.rmtree(folder, ignore_errors=True)
        return False
    unchanged = there == {path: tag for path, (_, tag) in notes.items()}
    for path in sorted(there, key=lambda path: (path == _METRICS, path)):
        target = folder / path
        if unchanged and (target.is_file() or _is_checkpoint(path)):  # one that is not here was removed here
            continue
        if target.is_file() and notes.get(path) == [_look(target), there[path]]:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(target) as aside:
            if path == _METRICS and metrics is not None:  # those of before the weights
                aside.write_bytes(metrics)
            else:
                bucket.get(f"{name}/{path}", aside)
        notes[path] = [_look(target), there[path]]
    here = {path.relative_to(folder).as_posix(): path for path in written_files(folder, _TRAVEL)}
    for path in here.keys() - there.keys():
        if not unchanged and (path in notes or _is_checkpoint(path)):
            here[path].unlink()
    _save(folder, bucket, name, {path: note for path, note in notes.items() if path in there})
    return True


def _stored(bucket: Bucket, name: str) -> dict[str, list[Any]]:
    """The files of a run in the bucket; others are a person's."""
    return {path: list(tag) for path, tag in bucket.files(name).items() if _travels(path)}


def _travels(path: str) -> bool:
    safe = ".." not in path.split("/")
    return safe and any(path.count("/") == one.count("/") and fnmatchcase(path, one) for one in _TRAVEL)


def _is_checkpoint(path: str) -> bool:
    return path.startswith(f"{CHECKPOINTS}/")


def _look(path: Path) -> list[int]:
    """What is another once a file was written again: run files are replaced, never changed."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _load(folder: Path, bucket: Bucket, name: str) -> dict[str, list[Any]]:
    """By path, how a file looked here and there; nothing of a folder that was of another run."""
    try:
        content = json.loads(read_regular(folder / _NOTES, MOST_BYTES))
        if content["of"] == [bucket.root, name]:
            return {path: [list(here), list(there)] for path, (here, there) in content["files"].items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        pass
    return {}


def _save(folder: Path, bucket: Bucket, name: str, notes: dict[str, list[Any]]) -> None:
    with suppress(OSError), written_aside(folder / _NOTES) as aside:  # without them, more is sent next time
        aside.write_text(json.dumps({"of": [bucket.root, name], "files": notes}))
