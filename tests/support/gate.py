"""A gate in the way of runs, so that what a test does to them in the middle does not depend on anybody's speed."""

from __future__ import annotations

import os
import time
from pathlib import Path

from regard.store import Store
from regard.training.loop import Loop

_OPEN = "open"


class Gate:
    """Holds other processes' runs after one step of every epoch but the first, until it opens or they are interrupted.

    Args:
        folder: a folder of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.code = f"from support.gate import hold; hold({str(folder)!r})"  # for the process of a run

    def holds(self, pid: int) -> bool:
        """Whether a process waits, or has waited."""
        return (self.folder / str(pid)).exists()

    def open(self) -> None:
        (self.folder / _OPEN).touch()

    def close(self) -> None:
        (self.folder / _OPEN).unlink()

    def path(self) -> str:
        """Of Python, for processes that a test does not start itself: each of `regard train` stops at the gate."""
        condition = "import sys\nif {'regard', 'train'} <= {*sys.orig_argv}:\n"
        (self.folder / "sitecustomize.py").write_text(f"{condition}    {self.code}\n")
        tests = Path(__file__).parents[1]
        return os.pathsep.join([str(self.folder), str(tests), os.environ.get("PYTHONPATH", "")])


def pid_of(store: Store, name: str) -> int:
    """Of the process that has locked a run; 0 if none has."""
    holder = store.holder(name)
    return int(holder.split()[1]) if holder is not None else 0


def hold(folder: str) -> None:
    """Puts the gate in the way of the runs of this process."""
    train_epoch, take_step = Loop.train_epoch, Loop.take_step

    def train(loop, interrupted=lambda: False):
        loop.interrupted = interrupted
        return train_epoch(loop, interrupted)

    def step(loop, batch):
        take_step(loop, batch)
        if loop.epoch > 0 and loop.step == 0:
            Path(folder, str(os.getpid())).touch()
            while not (Path(folder, _OPEN).exists() or loop.interrupted()):
                time.sleep(0.01)

    Loop.train_epoch, Loop.take_step = train, step
