"""Several processes of one command that does not train, as `torchrun` and `srun` start them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from regard.errors import InputError, SaidElsewhere
from regard.training import Processes

_WEEK = 7 * 24 * 60.0  # minutes: one process may have far more left to do than the others


@contextmanager
def joined(arguments: Sequence[str]) -> Iterator[Processes]:
    """Joins the processes that a launcher started, each with its own GPU if there are any; without one there is one.

    Args:
        arguments: of the command.

    Raises:
        InputError: the processes have other arguments, or one is gone.
    """
    with Processes("cpu", wait_minutes=_WEEK) as processes:  # what they tell one another is on processors
        first, *others = processes.of_all(list(arguments))
        if any(other != first for other in others):
            message = f"{processes.count} processes were started together with different arguments; start each alone"
            raise InputError(message) if processes.main else SaidElsewhere(message)
        yield processes
