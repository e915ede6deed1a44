"""Several processes of one command, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch

_PATIENCE = timedelta(days=7)  # one process may have far more left to do than the others


@contextmanager
def several_processes() -> Iterator[int]:
    """Joins the processes that `torchrun` started, each with its own GPU if there are any; gives this one's number.

    Without `torchrun` there is one, number 0. If one fails, `torchrun` stops the others.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield torch.distributed.get_rank()
    finally:
        torch.distributed.destroy_process_group()


def wait_for_all() -> None:
    """Waits until every process of the command is here; of one, not at all."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
