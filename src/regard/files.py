"""Files that are either whole or not there, and the removal of those that a command wrote."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from regard.errors import InputError

UNFINISHED = f".*.{'[0-9a-f]' * 32}.part"
"""Pattern of the files that `written_aside` writes, which a process that is killed leaves."""

STEP = f"step-{'[0-9]' * 9}"
"""Pattern of the names of checkpoints, without their ending."""

RUN_FILES = (
    *("metrics.jsonl", "unreadable.txt", "last.safetensors", "best.safetensors", f"checkpoints/{STEP}.pt"),
    *(f"{name}.{ending}" for name in ("bias", "bias-best", f"bias-{STEP}") for ending in ("json", "parquet")),
    *("tensorboard/events.out.tfevents.*", "tensorboard/*/events.out.tfevents.*", "tensorboard/*/hparams.yml"),
    *(".manifest.json", UNFINISHED, f"checkpoints/{UNFINISHED}"),
)
"""Patterns of the files of a run besides its recipe and environment; other files in its folder belong to the user."""

MOST_BYTES = 2**26
"""Limit of files of unknown size that are read whole."""


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of a regular file (no device, no pipe) of at most `most` bytes.

    Raises:
        OSError: there is none (FileNotFoundError), it cannot be read, is no regular file (EINVAL) or larger (EFBIG).
    """
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
        content = file.read(min(status.st_size, most) + 1)  # read() allocates as much as it is given
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", os.fspath(path))
    return content


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))  # a pipe has no writer


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Gives the path of a new, empty file beside `path`, and renames it to `path` once it is whole and on disk.

    Its name is hidden and unlike that of any other process or machine. On an error, or if the process dies, what was at
    `path` before is still there.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        aside.touch()
        mode = stat.S_IMODE(aside.stat().st_mode)  # of any new file; the umask cannot be read without changing it
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        aside.chmod(mode)  # some writers make files that only their owner can read
        os.replace(aside, path)
    finally:
        with suppress(OSError):
            aside.unlink()


@contextmanager
def utf8_path(path: str | Path) -> Iterator[Path]:
    """Gives the path of a file, or of a link to it if the path is not UTF-8, as some libraries need UTF-8."""
    path = Path(path)
    if utf8(str(path)) == str(path):
        yield path
        return
    with TemporaryDirectory() as folder:
        link = Path(folder, "file").with_suffix(path.suffix)
        link.symlink_to(path.absolute())
        yield link


def utf8(text: str) -> str:
    """Text that can be written as UTF-8: the bytes of a name that are no text are escaped (`\\udce9`)."""
    return text.encode(errors="backslashreplace").decode()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within the context, errors in writing the file `path` become InputErrors; a folder at `path` is one."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; give another place") from error


def write_text(path: str | Path, text: str) -> Path:
    """Writes a file that the user named, aside first, and makes its folder; returns its path.

    Characters that UTF-8 does not have are escaped (see `utf8`). Raises InputError if the file cannot be written.
    """
    path = Path(path)
    with writing(path):
        if path.exists() and not path.is_file():  # a device or a pipe, which is not to be replaced
            path.write_text(text, encoding="utf-8", errors="replace")
            return path
        target = Path(os.path.realpath(path))  # a link stays one
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(target) as aside:
            aside.write_text(utf8(text), encoding="utf-8")
    return path


def written_files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files in a folder that have the names of files that a command writes.

    Args:
        folder: folder, which need not exist.
        patterns: patterns of `Path.glob`, so exact that no file of the user matches: `checkpoints/step-[0-9][0-9].pt`.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        paths = {path for pattern in patterns for path in folder.glob(pattern)}
        return sorted(path for path in paths if path.is_symlink() or not path.is_dir())
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}") from error


def remove_files(folder: Path, files: Iterable[Path]) -> None:
    """Removes files in a folder, and folders in it that become empty. Everything else stays, and so does the folder.

    Raises:
        InputError: a file cannot be removed.
    """
    for path in files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot remove {path}: {error.strerror or error}") from error
        with suppress(OSError):  # something else is in it
            for above in path.relative_to(folder).parents[:-1]:
                (folder / above).rmdir()


def check_written(path: Path, mark: str) -> None:
    """Raises InputError for a file that must not be replaced: it is not empty, and regard did not write it.

    Args:
        path: path of the file, which need not exist.
        mark: text in the first kilobyte of what regard writes there.
    """
    with writing(path):
        if not path.is_file():  # devices and pipes are written to, and not replaced
            return
        with path.open("rb") as file:
            start = file.read(1024)
    if start and mark.encode() not in start:
        raise InputError(f"{path} is not overwritten, for regard did not write it; move it, or choose another folder")


def check_replaceable(folder: Path) -> None:
    """Raises InputError for a folder that no command replaces: the working folder, the home folder, and those above."""
    target = folder.resolve()
    for protected, name in ((Path.cwd(), "the working folder"), (Path(os.path.expanduser("~")), "the home folder")):
        if target in (protected.resolve(), *protected.resolve().parents):
            reason = f"is {name}" if target == protected.resolve() else f"holds {name}"
            raise InputError(f"{folder} is not overwritten, because it {reason}; give another folder")
