"""DataLoader workers: the error when one dies or cannot read."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
import torch

from regard.data.workers import Workers
from regard.errors import InputError


class Dying:
    """Kills the process that reads the third item."""

    def __getitem__(self, request):
        if request == 2:
            time.sleep(1)  # until a separate thread has started to send the second item
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.full((4,), request)


class Failing:
    """Raises the error that a dead worker also causes."""

    def __getitem__(self, request):
        raise EOFError("not enough bytes")


def test_a_worker_that_dies_while_sending_is_one_line(monkeypatch):
    items = Workers(Dying(), 1).read(range(4))
    before = set(multiprocessing.active_children())
    assert next(items).tolist() == [0] * 4  # the worker reads the third item; the second is in its memory
    (worker,) = set(multiprocessing.active_children()) - before
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would report it first
    try:
        worker.join(30)
        alive = iter([True])  # a moment in which the process is dead and not yet known to be
        monkeypatch.setattr(worker, "is_alive", lambda: next(alive, False))
        with pytest.raises(InputError, match="a DataLoader worker died") as caught:
            list(items)
    finally:
        signal.signal(signal.SIGCHLD, handler)
    assert isinstance(caught.value.__cause__, EOFError | ConnectionError)
    assert "\n" not in str(caught.value) and "--workers" in str(caught.value)


def test_eof_errors_of_a_data_set_are_raised():
    with pytest.raises(EOFError, match="not enough bytes"):
        list(Workers(Failing(), 1).read(range(4)))
