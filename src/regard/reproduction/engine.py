"""What carries out runs: this machine, or many by Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from regard.reproduction.plan import Job

Ending = Literal["finished", "stopped", "elsewhere", "failed", "lost"]
"""Of a run: finished; stopped and saved as asked; somebody else is at it; failed with an error; lost with its process
or machine."""


@dataclass(frozen=True)
class Ended:
    """A job that is at its end.

    Attributes:
        job: which.
        ending: how.
        message: what was said last, in a line.
    """

    job: Job
    ending: Ending
    message: str = ""


class Engine(Protocol):
    """Starts jobs and tells of those that ended."""

    @property
    def slots(self) -> int:
        """How many jobs it can have at once."""

    def start(self, job: Job) -> None:
        """Begins a job; returns at once."""

    def wait(self, seconds: float) -> list[Ended]:
        """The jobs that ended since the last call; waits for one, at most so long."""

    def stop(self) -> list[Ended]:
        """Asks all jobs to save and end, and waits for them."""

    def close(self) -> None:
        """Lets go of what it holds."""
