"""Checkpoints: the state of a run between two steps, from which it goes on as if never interrupted."""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from regard.errors import InputError, first_line
from regard.files import written_aside
from regard.models import read_checkpoint

_KEPT = 2  # the newest, and the one before in case the newest cannot be read


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Saves `state` after `step` steps, and removes all but the newest two checkpoints.

    Raises:
        InputError: the disk is full or the folder cannot be written; older checkpoints are still there.
    """
    path = folder / f"step-{step:09d}.pt"
    try:
        folder.mkdir(exist_ok=True)
        with written_aside(path) as aside, open(aside, "wb") as file:  # torch's own files do not say what is wrong
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        left = "the one before is still there" if _checkpoints(folder) else "there is none before it"
        raise InputError(f"the checkpoint {path} could not be written ({first_line(_cause(error))}); {left}") from error
    for old in _checkpoints(folder)[:-_KEPT]:
        old.unlink()
    return path


def _cause(error: BaseException) -> BaseException:
    """What the system said, if that is behind an error of torch's."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, OSError):
        behind = behind.__cause__ or behind.__context__
    return behind or error


def load_checkpoint(
    folder: Path, say: Callable[[str], None], of_all: Callable[[Any], list[Any]] = lambda value: [value]
) -> dict[str, Any] | None:
    """The state of the newest checkpoint that every process can read; None if there is none at all.

    Args:
        folder: of the checkpoints.
        say: is told of checkpoints that could not be read.
        of_all: gives what each process gives to it, by rank. The first process says which checkpoints there are, and
            a checkpoint counts only if all have read the same bytes: so all go on from the same step.

    Raises:
        InputError: there are checkpoints, and none can be read.
    """
    paths: list[Path] = of_all(_checkpoints(folder))[0]
    for path in reversed(paths):
        state: Any = None
        digest = problem = ""
        try:
            digest, state = check_whole(path), read_checkpoint(path)
            problem = "" if isinstance(state, dict) else f"{path} holds no state of a run"
        except InputError as error:
            problem = str(error)
        read = of_all((digest, problem))
        failed = [f"{said} (process {rank})" if rank else said for rank, (_, said) in enumerate(read) if said]
        problem = failed[0] if failed else ""
        if not problem and len(set(read)) > 1:
            problem = f"{path} is not the same file for all processes"
        if not problem:
            return state
        say(f"{problem}; trying the checkpoint before")
    if paths:
        raise InputError(f"none of the {len(paths)} checkpoints in {folder} can be read; start the run again elsewhere")
    return None


def check_whole(path: Path) -> str:
    """Compares every part of a checkpoint with the checksum that torch wrote with it, which torch itself does not.

    Returns:
        a digest of all parts.

    Raises:
        InputError: the file is cut short, or a byte of it is another.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            broken = parts.testzip()
            digest = repr([(part.filename, part.file_size, part.CRC) for part in parts.infolist()])
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise InputError(f"{path} is cut short or corrupted ({first_line(error)})") from error
    if broken is not None:
        raise InputError(f"{path} is corrupted (the checksum of {broken} is another)")
    return hashlib.sha256(digest.encode()).hexdigest()


def _checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d{9,}\.pt", path.name))
