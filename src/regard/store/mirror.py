"""Run folders between a store and this machine, only what changed.

What was sent or brought is written down in the folder, in `.mirror.json`: how each file looked here, and there. A file
that looks the same at both ends is left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from regard.errors import InputError, first_line
from regard.files import MOST_BYTES, RUN_FILES, read_regular, written_aside
from regard.store.place import CHECKPOINTS, READ, Place, Stamp

_MANIFEST = ".mirror.json"
_METRICS = "metrics.jsonl"
_COARSE = 2_000_000_000  # nanoseconds: the coarsest times that file systems keep


@dataclass
class _Manifest:
    """What the last transfer of a folder left.

    Attributes:
        of: the address and the name it was from or to.
        here: by path, size and time of the files here, and their digest where the time alone does not tell.
        there: by path, the stamps at the store.
    """

    of: list[str]
    here: dict[str, list[Any]] = field(default_factory=dict)
    there: dict[str, Stamp] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, place: Place, name: str) -> _Manifest:
        """That of a folder; an empty one if it has none, or one of another store or run."""
        of = [place.address, name]
        try:
            content = json.loads(read_regular(folder / _MANIFEST, MOST_BYTES))
            if content["of"] == of:
                there = {path: (size, when) for path, (size, when) in content["there"].items()}
                return cls(of, {path: list(look) for path, look in content["here"].items()}, there)
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            pass
        return cls(of)

    def save(self, folder: Path) -> None:
        content = {"of": self.of, "here": self.here, "there": self.there}
        with suppress(OSError), written_aside(folder / _MANIFEST) as aside:  # without it, more is sent next time
            aside.write_text(json.dumps(content))

    def unchanged(self, folder: Path, path: str) -> bool:
        """Whether a file here is as it was."""
        size, when, digest = self.here.get(path) or (None, None, None)
        found = (folder / path).stat()
        if found.st_size != size:
            return False
        if digest is None:
            return found.st_mtime_ns == when
        if _digest(folder / path) != digest:
            return False
        self.here[path] = _look(folder / path)  # by its time, once that is old enough
        return True

    def stale(self, path: str) -> bool:
        """Whether a file that is at one end only was at both, or is a checkpoint.

        Checkpoints are the same at both ends: of two, a run goes on from the later, whoever's that is.
        """
        return path in self.there or path.startswith(f"{CHECKPOINTS}/")


def push(place: Place, folder: Path, name: str) -> None:
    """Sends what changed in a run folder since it was last sent or brought, and removes what was removed here.

    Files at the store that never were here are left alone, unless the whole run is another: a folder that was never
    sent there takes the place of the run that is there. The metrics, as they were in the beginning, go last, so that no
    reader finds an epoch whose weights are not there.

    Raises:
        InputError: the folder is no folder, or the store cannot be written.
    """
    if not folder.is_dir():
        raise InputError(f"there is no run folder {folder}")
    manifest = _Manifest.load(folder, place, name)
    try:
        _push(place, folder, name, manifest)
    except OSError as error:
        raise InputError(
            f"{folder} could not be sent to {place.address} ({first_line(error)}); what was sent before is there still"
        ) from error
    finally:
        manifest.save(folder)


def _push(place: Place, folder: Path, name: str, manifest: _Manifest) -> None:
    metrics = _content(folder / _METRICS)
    here, there = _files(folder), _visible(place.files(name))
    if not manifest.there or metrics is None:
        # Another run's end is not to be read as this one's.
        other = {path for path in there if any(fnmatchcase(path, one) for one in RUN_FILES) and path not in here}
        for path in [path for path in there if path == _METRICS or (path in other and not manifest.there)]:
            place.remove(f"{name}/{path}")
            del there[path]
    # What the run is comes first: without it, what is there of a new run looks broken.
    paths = sorted(here - {_METRICS}, key=lambda path: (path not in READ, path))
    sent = {path for path in paths if _send(place, folder, name, path, manifest, there)}
    if metrics is not None:
        look = [len(metrics), 0, hashlib.sha256(metrics).hexdigest()]
        if manifest.here.get(_METRICS, [0, 0, ""])[2] != look[2] or not _same(_METRICS, manifest, there):
            place.write(f"{name}/{_METRICS}", metrics)
            sent.add(_METRICS)
        manifest.here[_METRICS] = look
    for path in there:
        if path not in here and manifest.stale(path):
            place.remove(f"{name}/{path}")
    if sent:
        there = _visible(place.files(name))
    manifest.there = {path: stamp for path, stamp in there.items() if path in here}
    manifest.here = {path: look for path, look in manifest.here.items() if path in here}


def _send(place: Place, folder: Path, name: str, path: str, manifest: _Manifest, there: dict[str, Stamp]) -> bool:
    """Whether a file had to be sent."""
    try:
        if _same(path, manifest, there) and manifest.unchanged(folder, path):
            return False
        look = _look(folder / path)  # before it is sent: what changes meanwhile is sent again next time
        place.put(folder / path, f"{name}/{path}")
    except FileNotFoundError:
        if (folder / path).exists():
            raise
        return False  # a checkpoint that was removed meanwhile
    manifest.here[path] = look
    manifest.there.pop(path, None)  # until it is known how it looks there
    return True


def fetch(place: Place, name: str, into: Path, *, checkpoints: bool = True) -> Path:
    """Brings a run folder here, only what is not here already; `into/name`.

    Where nothing changed at the store since the folder was last sent or brought, what is here is the same or further
    on, and stays.

    Args:
        place: where it is.
        name: of the run.
        into: the folder for it.
        checkpoints: whether those come along, without which it can be looked at but not gone on with.

    Raises:
        InputError: there is no such run, or it cannot be brought here.
    """
    folder = into / name
    try:
        metrics, there = place.read(f"{name}/{_METRICS}"), _visible(place.files(name))
        if not there:
            raise InputError(f"there is no run {name} in {place.address}")
        if not checkpoints:
            there = {path: stamp for path, stamp in there.items() if not path.startswith(f"{CHECKPOINTS}/")}
        folder.mkdir(parents=True, exist_ok=True)
        manifest = _Manifest.load(folder, place, name)
        behind = manifest.there != there
        for path in sorted(there.keys() - {_METRICS}):
            _bring(place, folder, name, path, manifest, there, behind=behind)
        if behind:
            for path in _files(folder) - there.keys():
                if manifest.stale(path):
                    (folder / path).unlink()
        if metrics is not None and (behind or not (folder / _METRICS).exists()):
            with written_aside(folder / _METRICS) as aside:  # last, as in `push`
                aside.write_bytes(metrics)
            manifest.here[_METRICS] = [len(metrics), 0, hashlib.sha256(metrics).hexdigest()]
        manifest.there = there
        manifest.save(folder)
    except OSError as error:
        raise InputError(f"{name} could not be brought from {place.address} to {into} ({first_line(error)})") from error
    return folder


def _bring(
    place: Place, folder: Path, name: str, path: str, manifest: _Manifest, there: dict[str, Stamp], *, behind: bool
) -> None:
    target = folder / path
    if target.exists() and _same(path, manifest, there) and (not behind or manifest.unchanged(folder, path)):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with written_aside(target) as aside:
            place.get(f"{name}/{path}", aside)
    except FileNotFoundError:  # a checkpoint that was removed meanwhile
        return
    manifest.here[path] = _look(target)


def _same(path: str, manifest: _Manifest, there: dict[str, Stamp]) -> bool:
    """Whether a file at the store is as it was."""
    return path in there and manifest.there.get(path) == there[path]


def _visible(files: dict[str, Stamp]) -> dict[str, Stamp]:
    return {path: stamp for path, stamp in files.items() if _travels(path)}


def _travels(path: str) -> bool:
    return not path.endswith(".part") and not any(part.startswith(".") for part in path.split("/"))


def _files(folder: Path) -> set[str]:
    """The files here that travel."""
    paths = (Path(at, name).relative_to(folder).as_posix() for at, _, names in os.walk(folder) for name in names)
    return {path for path in paths if _travels(path)}


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _look(path: Path) -> list[Any]:
    """Size, time, and the digest of a file that was written so recently that it may be again at the same time."""
    found = path.stat()
    recent = found.st_mtime_ns > time.time_ns() - _COARSE
    return [found.st_size, found.st_mtime_ns, _digest(path) if recent else None]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
