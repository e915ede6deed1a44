"""Where a store lies: the few things that are done with files at an address, whatever kind of address it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Stamp = tuple[int, int | str]
"""By what a file is seen to be another: its size in bytes, and when it was changed, or a tag of its content."""


class Seen(NamedTuple):
    """A run folder, as a listing shows it without opening a file. None: there is no such file."""

    recipe: Stamp | None
    metrics: Stamp | None
    environment: Stamp | None
    weights: bool


READ = ("recipe.yaml", "metrics.jsonl", "environment.json")
"""The files of a run that are read, in the order of `Seen`."""
WEIGHTS = "last.safetensors"
CHECKPOINTS = "checkpoints"


class Place(ABC):
    """Files at an address. Paths are relative to it, with `/`.

    Every method raises OSError, and nothing else, if the place cannot be reached or does not allow it. What is
    written is whole or not there: nobody ever reads a part of it.

    Attributes:
        address: as a person writes it.
        folder: if it is one of this machine.
        pause: seconds that make sense between two looks at it.
    """

    address: str
    folder: Path | None = None
    pause: float

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is anything."""

    @abstractmethod
    def runs(self) -> dict[str, Seen]:
        """The run folders, by name: folders directly below that hold a recipe, metrics or checkpoints."""

    @abstractmethod
    def files(self, path: str) -> dict[str, Stamp]:
        """All files below a folder, by their paths from there; empty if there is no such folder."""

    @abstractmethod
    def names(self, path: str) -> list[str]:
        """What lies directly in a folder; empty if there is no such folder."""

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """The content of a file; None if there is none. Of this machine, OSError if it is none, or too large."""

    @abstractmethod
    def read_each(self, paths: Sequence[str]) -> Iterator[bytes | OSError | None]:
        """The contents of many files, in order, with the error in place of what could not be read."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Puts a file there, with the folders above it."""

    @abstractmethod
    def put(self, source: Path, path: str) -> None:
        """Puts a copy of a file of this machine there. Raises FileNotFoundError if that file is gone."""

    @abstractmethod
    def get(self, path: str, target: Path) -> None:
        """Copies a file to `target`, not at once. Raises FileNotFoundError if it is gone."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Removes a file, if it is there, and perhaps the folder that is empty then."""

    @abstractmethod
    def clock(self) -> float:
        """The time as the place stamps files, in seconds since 1970; as this machine has it if that is not known."""

    @abstractmethod
    def settled(self, stamp: Stamp, clock: float) -> bool:
        """Whether a file that had this stamp at a time will have another once it is changed.

        Times of files may be whole seconds, or two: a file that was written just now may be written again, with as
        many bytes, and have the same stamp.
        """


def is_run(names: Mapping[str, object]) -> bool:
    """Whether a folder with such files is a run's, perhaps a broken one."""
    return any(name in names for name in ("recipe.yaml", "metrics.jsonl", CHECKPOINTS))
