"""Writes files atomically, reads them with a size limit, and removes files that a command wrote."""

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
"""Pattern of the temporary files of `atomic_write`, which remain if the process is killed."""

STEP = f"step-{'[0-9]' * 9}"
"""Pattern of the names of checkpoints, without suffix."""

RUN_FILES = (
    *("metrics.jsonl", "unreadable.txt", "last.safetensors", "best.safetensors", f"checkpoints/{STEP}.pt"),
    *(f"{name}.{ending}" for name in ("bias", "bias-best", f"bias-{STEP}") for ending in ("json", "parquet")),
    *("tensorboard/events.out.tfevents.*", "tensorboard/*/events.out.tfevents.*", "tensorboard/*/hparams.yml"),
    *(".manifest.json", UNFINISHED, f"checkpoints/{UNFINISHED}"),
)
"""Patterns of the files of a run besides its recipe and environment; other files in its folder belong to the user."""

MAX_BYTES, MAX_RECIPE_BYTES = 2**26, 2**18
"""Size limits of files, and of recipes, that are read into memory."""


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a regular file (no device, no pipe) of at most `limit` bytes.

    Raises OSError: FileNotFoundError, EINVAL if the file is not regular, EFBIG if it is larger.
    """
    with open(path, "rb", opener=_open_nonblocking) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
        content = file.read(min(status.st_size, limit) + 1)  # read() allocates as many bytes as it is given
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit:,} bytes", os.fspath(path))
    return content


def _open_nonblocking(path: str, flags: int) -> int:
    # Opening a pipe would wait for its writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields the path of a temporary, empty file in the same folder, and renames it to `path` at the end.

    The temporary name is hidden and unique among all processes and machines. After an error, or if the process dies,
    the previous file at `path` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)  # by the umask, which cannot be read without changing it
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # some writers make files that only their owner can read
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def utf8_path(path: str | Path) -> Iterator[Path]:
    """Yields the path of a file, or of a temporary link to it if the path is not UTF-8, which some libraries need."""
    path = Path(path)
    if utf8(str(path)) == str(path):
        yield path
        return
    with TemporaryDirectory() as folder:
        link = Path(folder, "file").with_suffix(path.suffix)
        link.symlink_to(path.absolute())
        yield link


def utf8(text: str) -> str:
    """Escapes the bytes of a file name that are not UTF-8 (`\\udce9`), so that the text can be written."""
    return text.encode(errors="backslashreplace").decode()


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Within the context, OSErrors in writing the file `path` become InputErrors, also if `path` is a folder."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; give another path") from error


def write_text(path: str | Path, text: str) -> Path:
    """Writes a text file atomically, creating its folder; returns its path.

    Characters that UTF-8 does not have are escaped (see `utf8`). Raises InputError if the file cannot be written.
    """
    path = Path(path)
    with write_errors(path):
        if path.exists() and not path.is_file():  # a device or a pipe, which must not be replaced
            path.write_text(text, encoding="utf-8", errors="replace")
            return path
        target = Path(os.path.realpath(path))  # keeps a symbolic link
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            temporary.write_text(utf8(text), encoding="utf-8")
    return path


def matching_files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files in a folder, which need not exist, that match any of some patterns of `Path.glob`.

    To select files that a command wrote, patterns must not match files of the user: `step-[0-9][0-9].pt`.
    """
    try:
        paths = {path for pattern in patterns for path in folder.glob(pattern)}
        return sorted(path for path in paths if path.is_symlink() or not path.is_dir())
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}") from error


def remove_files(folder: Path, files: Iterable[Path]) -> None:
    """Removes files from a folder, and subfolders that become empty; the folder stays. Raises InputError."""
    for path in files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot remove {path}: {error.strerror or error}") from error
        with suppress(OSError):  # a folder is not empty
            for subfolder in path.relative_to(folder).parents[:-1]:
                (folder / subfolder).rmdir()


def check_overwritable(path: Path, mark: str) -> None:
    """Raises InputError for a file that is not empty and lacks `mark`, which regard writes, in its first kilobyte."""
    with write_errors(path):
        if not path.is_file():  # devices and pipes are written to, and not replaced
            return
        with path.open("rb") as file:
            start = file.read(1024)
    if start and mark.encode() not in start:
        raise InputError(
            f"{path} is not overwritten, because regard did not write it; move it, or choose another folder"
        )


def check_replaceable(folder: Path) -> None:
    """Raises InputError for folders that are never replaced: the working folder, the home folder, and those above."""
    target = folder.resolve()
    for protected, name in ((Path.cwd(), "the working folder"), (Path(os.path.expanduser("~")), "the home folder")):
        if target in (protected.resolve(), *protected.resolve().parents):
            reason = f"is {name}" if target == protected.resolve() else f"holds {name}"
            raise InputError(f"{folder} is not overwritten, because it {reason}; give another folder")
