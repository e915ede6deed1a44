"""Checkpoints: the state of a run between two steps, from which it resumes as if it had not been interrupted."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard import models
from regard.errors import InputError, first_line, one_line
from regard.files import STEP, atomic_write
from regard.training.hooks import by_name

if TYPE_CHECKING:
    from regard.training.loop import Loop

_MAX_CHECKPOINTS = 2  # the newest, and the previous one in case the newest cannot be read


def save_checkpoint(loop: Loop, meter: dict[str, Tensor]) -> None:
    """Saves the state of a loop and its meter, and removes all but the newest checkpoints. For the main process only.

    The state does not depend on the process, because random numbers depend on the seed and the step.
    """
    state = {
        "epoch": loop.epoch,
        "step": loop.step,
        "steps": len(loop.loader),
        "processes": loop.processes.count,
        "model": loop.model.state_dict(),
        "regressors": loop.task.regressors.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "scaler": loop.scaler.state_dict() if loop.scaler is not None else None,
        "hooks": {name: saved for name, hook in by_name(loop.hooks).items() if (saved := hook.state_dict())},
        "rows": loop.rows,
        "unreadable": loop.unreadable,
        "meter": meter,
    }
    folder = loop.run.checkpoints
    path = folder / f"step-{loop.steps_done:09d}.pt"
    try:
        folder.mkdir(exist_ok=True)
        # Errors of Python's file name the cause, those of torch's do not.
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # the disk is full, or the folder cannot be written
        remaining = "the previous one is kept" if _checkpoints(folder) else "there is no previous one"
        raise InputError(
            f"the checkpoint {path} could not be written ({first_line(_cause(error))}); {remaining}"
        ) from error
    for old in _checkpoints(folder)[:-_MAX_CHECKPOINTS]:
        old.unlink()


def restore(loop: Loop) -> None:
    """Restores the newest checkpoint that can be read, if any.

    Raises InputError if none can be read, or they belong to another network or version of regard.
    """
    folder = loop.run.checkpoints
    state = read_newest(folder, loop.processes.note, loop.processes.of_all)
    if state is None:
        return
    source, remedy = f"the checkpoint in {folder}", "start the run again (--overwrite)"
    saved_count, count = state.get("processes", 1), loop.processes.count
    if state.get("steps", len(loop.loader)) != len(loop.loader):
        raise InputError(
            f"an epoch of {loop.run.folder} had {state['steps']} steps with {saved_count} processes, and has "
            f"{len(loop.loader)} with {count}, which leave out another last batch; use the same number of processes, "
            f"or {remedy}"
        )
    try:
        models.load_weights(loop.model, state["model"], source)
        groups = zip(loop.optimizer.state_dict()["param_groups"], state["optimizer"]["param_groups"], strict=False)
        if any(not group.keys() <= saved.keys() for group, saved in groups):
            raise InputError(f"{source} belongs to another optimizer; {remedy}")  # torch would load it without an error
        loop.task.regressors.load_state_dict(state["regressors"])
        loop.optimizer.load_state_dict(state["optimizer"])
        if loop.scaler is not None:
            loop.scaler.load_state_dict(state["scaler"])
        for name, hook in by_name(loop.hooks).items():
            if name in state["hooks"]:
                hook.load_state_dict(state["hooks"][name])
            elif hook.state_dict():
                raise InputError(f"{source} has no state of the hook {name!r}; leave the hook out, or {remedy}")
        loop.epoch, loop.step, loop.rows = state["epoch"], state["step"], state["rows"]
        loop.unreadable = tuple(state["unreadable"])
        loop.meter.load(state["meter"], main=loop.processes.main)
    except KeyError as error:
        raise InputError(f"{source} belongs to another version of regard (it has no {error}); {remedy}") from error
    except InputError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{source} belongs to another network, optimizer or version of regard ({one_line(error)[:200]}); {remedy}"
        ) from error
    loop.processes.note(
        f"resumed {loop.run.folder} at epoch {loop.epoch + 1}, step {loop.step + 1}"
        + (f" (with {count} processes, before with {saved_count}: equal up to rounding)" * (saved_count != count))
    )


def _cause(error: BaseException) -> BaseException:
    """The error of the operating system behind an error of torch, if any."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause or error


def read_newest(
    folder: Path, note: Callable[[str], None], gather: Callable[[Any], list[Any]] = lambda value: [value]
) -> dict[str, Any] | None:
    """The state of the newest checkpoint that all processes can read; None if there are no checkpoints.

    `note` is called for each checkpoint that cannot be read. `gather` gathers a value from all processes, by rank: a
    checkpoint counts only if all processes read the same bytes, so that they resume from the same step.
    """
    paths: list[Path] = gather(_checkpoints(folder))[0]
    for path in reversed(paths):
        state: Any = None
        digest = problem = ""
        try:
            digest, state = verify_checksums(path), models.read_checkpoint(path)
            problem = "" if isinstance(state, dict) else f"{path} has no state of a run"
        except InputError as error:
            problem = str(error)
        results = gather((digest, problem))
        problems = [f"{text}{f' (process {rank})' * (rank > 0)}" for rank, (_, text) in enumerate(results) if text]
        if len(set(results)) == 1 and not problems:
            return state
        problem = problems[0] if problems else f"{path} is not the same file for all processes"
        note(f"{problem}; trying the previous checkpoint")
    if paths:
        raise InputError(f"none of the {len(paths)} checkpoints in {folder} can be read; start the run again elsewhere")
    return None


def verify_checksums(path: Path) -> str:
    """Verifies the checksums in a checkpoint, which torch writes but does not verify; returns a digest of them."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            digest = repr([(entry.filename, entry.file_size, entry.CRC) for entry in archive.infolist()])
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise InputError(f"{path} is truncated or corrupted ({first_line(error)})") from error
    if broken is not None:
        raise InputError(f"{path} is corrupted (the checksum of {broken} does not match)")
    return hashlib.sha256(digest.encode()).hexdigest()


def _checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, oldest first."""
    return sorted(folder.glob(f"{STEP}.pt"))
