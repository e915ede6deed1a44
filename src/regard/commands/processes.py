"""Several processes of one command, as `torchrun` and `srun` start them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from regard import training
from regard.errors import InputError, LostProcess, SaidElsewhere, first_line
from regard.launcher import local_rank, rank_and_size

_PATIENCE = timedelta(days=7)  # one process may have far more left to do than the others


@contextmanager
def several_processes(arguments: Sequence[str]) -> Iterator[int]:
    """Joins the processes that a launcher started, each with its own GPU if there are any; gives this one's number.

    Without a launcher there is one, number 0.

    Args:
        arguments: of the command.

    Raises:
        InputError: the processes have other arguments, or one is gone.
    """
    rank, size = rank_and_size()
    if size == 1:
        yield 0
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    try:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    except (ValueError, RuntimeError, dist.DistError) as error:
        raise LostProcess(f"the processes do not find one another ({first_line(error)})") from error
    try:
        with training.others_there(rank, size):
            given: list[Any] = [None] * size
            dist.all_gather_object(given, list(arguments))
            if any(other != given[0] for other in given):
                message = f"{size} processes were started together with different arguments; start each alone"
                raise SaidElsewhere(message) if rank else InputError(message)
            yield rank
    finally:
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Waits until every process of the command is here; of one, not at all."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
