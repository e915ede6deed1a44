"""A long evaluation in shards: each is kept once it is done, and several processes divide them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from regard.bias.rows import Rows
from regard.data.decode import SKIP, OnUnreadable
from regard.errors import InputError, first_line
from regard.files import MOST_BYTES, atomic_write, matching_files, read_regular, remove_files

_PLAN = "plan.json"
_SHARDS = f"{'[0-9]' * 6}.parquet"
_MADE = "weights"  # in the plan of every evaluation that has a folder


def in_shards(
    count: int,
    size: int,
    work: Callable[[range, Callable[[int], None]], Rows],
    *,
    folder: str | Path | None = None,
    plan: Mapping[str, Any] = {},
    progress: Callable[[int, int | None], None] | None = None,
    unreadable: OnUnreadable = "skip",
) -> Rows:
    """The rows of all images, computed a shard at a time.

    With a folder, each shard is a file in it, and those that are there are taken as they are. Under
    `torch.distributed` every process computes its slice and reads those of the others, so that all get the same.

    Args:
        count: of the images.
        size: of a shard; the last one has what is left.
        work: computes a range of images, and calls its second argument with the number of images that are done.
        folder: where the shards are kept; None: nowhere. The processes of one evaluation share it.
        plan: what the rows depend on, JSON-ready; a folder of another plan is refused.
        progress: called with the number of this process's images that are done or there already, and that of all.
        unreadable: "error": a shard that is there has to have all of its images.

    Raises:
        InputError: the folder is of another plan or cannot be written; several processes and no folder; an unreadable
            image.
    """
    ranges = [range(start, min(start + size, count)) for start in range(0, count, size)]
    rank, world = _process()
    done = counter(progress, count)
    if folder is None:
        if world > 1:
            raise InputError(f"{world} processes share an evaluation through a folder; give one")
        return Rows.joined([work(images, done) for images in ranges])
    folder = Path(folder)
    with _writing(folder):
        _begin(folder, plan)
    for i in range(rank, len(ranges), world):
        if _read(_file(folder, i)) is not None:
            done(len(ranges[i]))
            continue
        rows = work(ranges[i], done)
        with _writing(folder):
            rows.write(_file(folder, i))
    if world > 1:
        torch.distributed.barrier()
    shards = [part for i in range(len(ranges)) if (part := _read(_file(folder, i))) is not None]
    if len(shards) < len(ranges):
        raise InputError(f"{len(ranges) - len(shards)} of {len(ranges)} shards in {folder} are gone; start again")
    rows = Rows.joined(shards)
    if unreadable == "error" and rows.skipped:
        raise InputError(f"{rows.skipped[0]}; {SKIP}")
    return rows


def counter(progress: Callable[[int, int | None], None] | None, total: int | None) -> Callable[[int], None]:
    """Adds up numbers of images, and calls `progress` with the sum and the total each time."""
    done = 0

    def add(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, total)

    return add


def remove_shards(folder: Path) -> None:
    """Removes the shards and the plan of an evaluation from its folder, and the folder if nothing else is in it.

    Raises:
        InputError: a file cannot be removed.
    """
    if _MADE not in _plan(folder):
        return
    remove_files(folder, matching_files(folder, (_SHARDS, _PLAN)))
    with suppress(OSError):
        folder.rmdir()


def _process() -> tuple[int, int]:
    """The number of this process, and of all."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or first_line(error)}") from None


def _begin(folder: Path, plan: Mapping[str, Any]) -> None:
    """Makes the folder, or checks that it is of the same plan."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _PLAN
    there = matching_files(folder, (_SHARDS,))  # before the plan: another process writes that first
    wanted = json.loads(json.dumps(plan))
    if path.is_file():
        present = _plan(folder)
        differing = [name for name in sorted({**present, **wanted}) if wanted.get(name) != present.get(name)]
        if differing:
            raise InputError(
                f"{folder} holds shards of another evaluation: {', '.join(differing)} "
                f"{'differs' if len(differing) == 1 else 'differ'}; replace them (--overwrite) or choose another "
                "folder (--out)"
            )
    elif there:
        raise InputError(f"{there[0]} is of no evaluation, and is not overwritten; choose another folder (--out)")
    else:
        with atomic_write(path) as aside:
            aside.write_text(json.dumps(wanted, indent=1))


def _plan(folder: Path) -> dict[str, Any]:
    """Of the shards in a folder; empty if there is none."""
    try:
        plan = json.loads(read_regular(folder / _PLAN, MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return plan if isinstance(plan, dict) else {}


def _read(path: Path) -> Rows | None:
    """The rows of a shard, if its file is there and whole."""
    try:
        return Rows.read(path)
    except InputError:
        return None


def _file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:06d}.parquet"
