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
    """Ends the process that reads the third part."""

    def __getitem__(self, request):
        if request == 2:
            time.sleep(1)  # until the second part is on the way: a thread of its own sends it
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.full((4,), request)


class Failing:
    """Fails by an error that the end of a process gives, too."""

    def __getitem__(self, request):
        raise EOFError("not enough bytes")


def test_a_process_that_ends_with_a_part_on_the_way_is_one_line(monkeypatch):
    parts = Workers(Dying(), 1).read(range(4))
    before = set(multiprocessing.active_children())
    assert next(parts).tolist() == [0] * 4  # the process goes on to the third part; the second is in its memory
    (own,) = set(multiprocessing.active_children()) - before
    watching = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's, which would say it first
    try:
        own.join(30)
        seen = iter([True])  # as for a moment of its end, when nobody sees it yet
        monkeypatch.setattr(own, "is_alive", lambda: next(seen, False))
        with pytest.raises(InputError, match="a DataLoader worker died") as caught:
            list(parts)
    finally:
        signal.signal(signal.SIGCHLD, watching)
    assert isinstance(caught.value.__cause__, EOFError | ConnectionError)
    assert "\n" not in str(caught.value) and "--workers" in str(caught.value)


def test_an_error_of_what_is_read_is_not_taken_for_the_end_of_a_process():
    with pytest.raises(EOFError, match="not enough bytes"):
        list(Workers(Failing(), 1).read(range(4)))
