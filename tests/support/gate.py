"""A gate that pauses training runs, so that a test can act in the middle of a run whatever the machine's speed."""

from __future__ import annotations

import os
import time
from pathlib import Path

from regard.store import Store
from regard.training.loop import Loop

_OPEN = "open"


class Gate:
    """Pauses runs in other processes after the first step of every epoch but the first, until it opens or the run is
    interrupted.

    Args:
        folder: a new folder for the files that the processes communicate by.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.code = f"from support.gate import hold; hold({str(folder)!r})"  # for the process of a run

    def holds(self, pid: int) -> bool:
        """Whether a process waits at the gate, or has waited."""
        return (self.folder / str(pid)).exists()

    def open(self) -> None:
        (self.folder / _OPEN).touch()

    def close(self) -> None:
        (self.folder / _OPEN).unlink()

    def path(self) -> str:
        """A PYTHONPATH with which every process of `regard train` stops at the gate, whoever starts it."""
        condition = "import sys\nif {'regard', 'train'} <= {*sys.orig_argv}:\n"
        (self.folder / "sitecustomize.py").write_text(f"{condition}    {self.code}\n")
        tests = Path(__file__).parents[1]
        return os.pathsep.join([str(self.folder), str(tests), os.environ.get("PYTHONPATH", "")])


def pid_of(store: Store, name: str) -> int:
    """The id of the process that has locked a run; 0 if none has."""
    holder = store.holder(name)
    return int(holder.split()[1]) if holder is not None else 0


def hold(folder: str) -> None:
    """Makes the runs of this process stop at the gate."""
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
