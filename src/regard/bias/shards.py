"""A long evaluation in shards: each is kept once it is done, and several processes share them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from regard.bias.rows import Rows, read_rows, write_rows
from regard.errors import InputError, first_line
from regard.files import MOST_BYTES, read_regular, remove_files, written_aside, written_files

_PLAN = "plan.json"
_SHARDS = f"{'[0-9]' * 6}.parquet"
_MADE = "weights"  # in the plan of every evaluation that has a folder


@dataclass(frozen=True, eq=False)
class Shard:
    """What some images came to.

    Attributes:
        rows: of those that could be read.
        skipped: the others, each with the reason.
        outputs: how many the model has; 0 where it was not asked.
    """

    rows: Rows
    skipped: tuple[str, ...] = ()
    outputs: int = 0

    @classmethod
    def joined(cls, shards: Sequence[Shard]) -> Shard:
        """Several, one after another."""
        return cls(
            Rows.joined([shard.rows for shard in shards]),
            tuple(name for shard in shards for name in shard.skipped),
            max((shard.outputs for shard in shards), default=0),
        )

    def write(self, path: Path) -> None:
        """As a file, whole or not at all."""
        write_rows(path, self.rows, {"skipped": json.dumps(self.skipped), "outputs": str(self.outputs)})

    @classmethod
    def read(cls, path: Path) -> Shard | None:
        """A file's, if it is there and whole."""
        try:
            rows, notes = read_rows(path)
            return cls(rows, tuple(json.loads(notes["skipped"])), int(notes["outputs"]))
        except (InputError, KeyError, ValueError):
            return None


def in_shards(
    count: int,
    size: int,
    work: Callable[[range], Shard],
    *,
    folder: Path | None,
    plan: Mapping[str, Any],
    found: Callable[[range], None],
) -> Shard:
    """What all images come to, a shard at a time.

    With a folder, each shard is a file in it, and those that are there are taken as they are. Under
    `torch.distributed` every process works out its share and reads those of the others, so that all get the same.

    Args:
        count: of the images.
        size: of a shard; the last one has what is left.
        work: works out a range of images.
        folder: where the shards are kept; None: nowhere. The processes of one evaluation share it.
        plan: what the rows depend on, JSON-ready; a folder of another plan is refused.
        found: called with each range of this process's share that is there already.

    Raises:
        InputError: the folder is of another plan or cannot be written; several processes and no folder.
    """
    ranges = [range(start, min(start + size, count)) for start in range(0, count, size)]
    rank, world = _process()
    if folder is None:
        if world > 1:
            raise InputError(f"{world} processes share an evaluation through a folder; give one")
        return Shard.joined([work(one) for one in ranges])
    with _writing(folder):
        _begin(folder, plan)
    for i in range(rank, len(ranges), world):
        if Shard.read(_file(folder, i)) is not None:
            found(ranges[i])
            continue
        shard = work(ranges[i])
        with _writing(folder):
            shard.write(_file(folder, i))
    if world > 1:
        torch.distributed.barrier()
    shards = [Shard.read(_file(folder, i)) for i in range(len(ranges))]
    whole = [shard for shard in shards if shard is not None]
    if len(whole) < len(ranges):
        raise InputError(f"{len(ranges) - len(whole)} of {len(ranges)} shards in {folder} are gone; start again")
    return Shard.joined(whole)


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
    """Makes the folder, or finds that it is of the same plan."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _PLAN
    there = written_files(folder, (_SHARDS,))  # before the plan: another process writes that first
    wanted = json.loads(json.dumps(plan))
    if path.is_file():
        found = _plan(folder)
        differing = [name for name in sorted({**found, **wanted}) if wanted.get(name) != found.get(name)]
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
        found = json.loads(read_regular(folder / _PLAN, MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:06d}.parquet"
