"""Evaluation in shards, which are saved when they are done and can be divided among processes."""

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
from regard.files import MAX_BYTES, atomic_write, matching_files, read_regular, remove_files

_PLAN = "plan.json"
_SHARDS = f"{'[0-9]' * 6}.parquet"
_PLAN_KEY = "weights"  # in the plan of every evaluation with a folder


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
    """The rows of all images, computed shard by shard.

    With a folder, each shard is a file there, and existing shards are not computed again. Under `torch.distributed`
    every process computes its slice of the shards and then reads all of them.

    Args:
        count: number of images.
        size: images per shard; the last shard may have fewer.
        work: computes the rows of a range of images, and calls its second argument with numbers of images done.
        folder: folder of the shards, shared by the processes of one evaluation; None: shards are not saved.
        plan: everything that the rows depend on, JSON-ready; a folder with another plan raises an error.
        progress: called with the number of this process's images that are done or exist already, and the total.
        unreadable: "error": existing shards must not have skipped images.
    """
    ranges = [range(start, min(start + size, count)) for start in range(0, count, size)]
    rank, world = _process()
    done = counter(progress, count)
    if folder is None:
        if world > 1:
            raise InputError(f"an evaluation with {world} processes needs a shared folder; give one")
        return Rows.concatenate([work(images, done) for images in ranges])
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
        raise InputError(f"{len(ranges) - len(shards)} of {len(ranges)} shards in {folder} are missing; start again")
    rows = Rows.concatenate(shards)
    if unreadable == "error" and rows.skipped:
        raise InputError(f"{rows.skipped[0]}; {SKIP}")
    return rows


def counter(progress: Callable[[int, int | None], None] | None, total: int | None) -> Callable[[int], None]:
    """A function that adds up numbers of images and calls `progress` with the sum and the total."""
    done = 0

    def add(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, total)

    return add


def remove_shards(folder: Path) -> None:
    """Removes the shards and the plan of an evaluation from its folder, and the folder if it is then empty."""
    if _PLAN_KEY not in _read_plan(folder):
        return
    remove_files(folder, matching_files(folder, (_SHARDS, _PLAN)))
    with suppress(OSError):
        folder.rmdir()


def _process() -> tuple[int, int]:
    """The rank of this process and the number of processes."""
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
    """Creates the folder with its plan, or checks that it has the same plan."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _PLAN
    shards = matching_files(folder, (_SHARDS,))  # listed before the plan is read: processes write the plan first
    plan = json.loads(json.dumps(plan))
    if path.is_file():
        existing = _read_plan(folder)
        differing = [name for name in sorted({**existing, **plan}) if plan.get(name) != existing.get(name)]
        if differing:
            raise InputError(
                f"{folder} holds shards of another evaluation: {', '.join(differing)} "
                f"{'differs' if len(differing) == 1 else 'differ'}; replace them (--overwrite) or choose another "
                "folder (--out)"
            )
    elif shards:
        raise InputError(f"{shards[0]} is not from an evaluation and not overwritten; choose another folder (--out)")
    else:
        with atomic_write(path) as aside:
            aside.write_text(json.dumps(plan, indent=1))


def _read_plan(folder: Path) -> dict[str, Any]:
    """The plan in a folder; empty if there is none."""
    try:
        plan = json.loads(read_regular(folder / _PLAN, MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return plan if isinstance(plan, dict) else {}


def _read(path: Path) -> Rows | None:
    """The rows of a shard; None if its file is missing or damaged."""
    try:
        return Rows.read(path)
    except InputError:
        return None


def _file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:06d}.parquet"
