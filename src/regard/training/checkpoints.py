"""Checkpoints: the state of a run between two steps, from which it goes on as if never interrupted."""

from __future__ import annotations

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
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step:09d}.pt"
    try:
        with written_aside(path) as aside, open(aside, "wb") as file:  # torch's own files do not say what is wrong
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"the checkpoint {path} could not be written ({first_line(_cause(error))}); the one before is still there"
        ) from error
    for old in _checkpoints(folder)[:-_KEPT]:
        old.unlink()
    return path


def _cause(error: BaseException) -> BaseException:
    """What the system said, if that is behind an error of torch's."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, OSError):
        behind = behind.__cause__ or behind.__context__
    return behind or error


def load_checkpoint(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The state of the newest checkpoint that can be read; None if there is none at all.

    Args:
        folder: of the checkpoints.
        say: is told of checkpoints that could not be read.

    Raises:
        InputError: there are checkpoints, and none can be read.
    """
    paths = _checkpoints(folder)
    for path in reversed(paths):
        try:
            check_whole(path)
            state = read_checkpoint(path)
        except InputError as error:
            say(f"{error}; trying the checkpoint before")
            continue
        if isinstance(state, dict):
            return state
    if paths:
        raise InputError(f"none of the {len(paths)} checkpoints in {folder} can be read; start the run again elsewhere")
    return None


def check_whole(path: Path) -> None:
    """Compares every part of a checkpoint with the checksum that torch wrote with it, which torch itself does not.

    Raises:
        InputError: the file is cut short, or a byte of it is another.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            broken = parts.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise InputError(f"{path} is cut short or corrupted ({first_line(error)})") from error
    if broken is not None:
        raise InputError(f"{path} is corrupted (the checksum of {broken} is another)")


def _checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d+\.pt", path.name))
