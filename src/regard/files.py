"""Files that are either whole or not there."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from regard.errors import InputError


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


def write_text(path: str | Path, text: str) -> Path:
    """Writes a file that somebody named, aside first and then renamed; its folder is made if need be.

    Args:
        path: of the file.
        text: characters that UTF-8 does not know are replaced.

    Returns:
        The path.

    Raises:
        InputError: the place cannot be written.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder; give another place")
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            aside.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; give another place") from error
    return path


def _mode(path: Path) -> int:
    """Of a new file at a path; the umask cannot be asked without being changed for all threads."""
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(file).st_mode)
    finally:
        os.close(file)
        path.unlink()
