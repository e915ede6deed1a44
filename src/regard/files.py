"""Files that are either whole or not there."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Gives a hidden path in the same folder that no other process or machine has; what is left there is removed."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield aside
    finally:
        with suppress(OSError):
            aside.unlink()


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and renames it to `path` once it is whole and on disk.

    On an error, or if the process dies, what was at `path` before is there still.
    """
    with beside(path) as aside:
        mode = _mode(aside)
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        aside.chmod(mode)  # some writers make files that only their owner can read
        os.replace(aside, path)


def _mode(path: Path) -> int:
    """Of a new file at a path; the umask cannot be asked without being changed for all threads."""
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(file).st_mode)
    finally:
        os.close(file)
        path.unlink()
