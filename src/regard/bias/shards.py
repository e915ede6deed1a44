"""A long evaluation in shards: each is kept once it is done, and several processes divide them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from regard.bias.results import Rows
from regard.data.decode import SKIP, OnUnreadable
from regard.errors import InputError, first_line
from regard.files import MOST_BYTES, read_regular, remove_files, written_aside, written_files

_PLAN = "plan.json"
_SHARDS = f"{'[0-9]' * 6}.parquet"
_MADE = "weights"  # in the plan of every evaluation that has a folder


def in_shards(
    count: int,
    size: int,
    work: Callable[[range], Rows],
    *,
    folder: Path | None,
    plan: Mapping[str, Any],
    resumed: Callable[[range], None],
    unreadable: OnUnreadable = "skip",
) -> Rows:
    """The rows of all images, computed a shard at a time.

    With a folder, each shard is a file in it, and those that are there are taken as they are. Under
    `torch.distributed` every process computes its slice and reads those of the others, so that all get the same.

    Args:
        count: of the images.
        size: of a shard; the last one has what is left.
        work: computes a range of images.
        folder: where the shards are kept; None: nowhere. The processes of one evaluation share it.
        plan: what the rows depend on, JSON-ready; a folder of another plan is refused.
        resumed: called with each range of this process's slice that is there already.
        unreadable: "error": a shard that is there has to have all of its images.

    Raises:
        InputError: the folder is of another plan or cannot be written; several processes and no folder; an unreadable
            image.
    """
    ranges = [range(start, min(start + size, count)) for start in range(0, count, size)]
    rank, world = _process()
    if folder is None:
        if world > 1:
            raise InputError(f"{world} processes share an evaluation through a folder; give one")
        return Rows.joined([work(one) for one in ranges])
    with _writing(folder):
        _begin(folder, plan)
    for i in range(rank, len(ranges), world):
        if _read(_file(folder, i)) is not None:
            resumed(ranges[i])
            continue
        rows = work(ranges[i])
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


class ImageCount:
    """Counts images as they are done, and calls `progress` with their number and that of all."""

    def __init__(self, progress: Callable[[int, int | None], None] | None, total: int | None) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, images: int) -> None:
        self._done += images
        if self._progress is not None:
            self._progress(self._done, self._total)


def remove_shards(folder: Path) -> None:
    """Removes the shards and the plan of an evaluation from its folder, and the folder if nothing else is in it.

    Raises:
        InputError: a file cannot be removed.
    """
    if _MADE not in _plan(folder):
        return
    remove_files(folder, written_files(folder, (_SHARDS, _PLAN)))
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
    there = written_files(folder, (_SHARDS,))  # before the plan: another process writes that first
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
        with written_aside(path) as aside:
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
