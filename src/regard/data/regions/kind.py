"""What a kind of data set with regions is, and the choices that a person has in opening one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from regard.data.dataset import ImageDataset
from regard.data.listing import read_text, show
from regard.errors import InputError, unknown


@dataclass(frozen=True)
class Choices:
    """What a person said besides where the data set is; None is left to the kind."""

    split: str | None = None
    images: Path | None = None
    region: str | None = None
    boundary: str | None = None


@dataclass(frozen=True)
class Kind:
    """One way in which images and their regions come as files.

    Attributes:
        name: what people call it.
        layout: what is expected where, for a message; one line.
        recognised: whether the place looks like one.
        open: opens it.
        takes: which of the choices mean something here.
    """

    name: str
    layout: str
    recognised: Callable[[Path], bool]
    open: Callable[[Path, Choices], ImageDataset]
    takes: frozenset[str]

    def check(self, choices: Choices) -> None:
        """Raises InputError for a choice that means nothing here."""
        for name, value in vars(choices).items():
            if value is not None and name not in self.takes:
                raise InputError(
                    f"data of kind {self.name!r} has no choice of {name} (found {str(value)!r}); leave it out"
                )


def chosen(name: str, given: str | None, known: Sequence[str], default: str) -> str:
    """One of a few words.

    Raises:
        InputError: another word.
    """
    if given is None:
        return default
    if given not in known:
        raise unknown(name, given, known)
    return given


def pick_split(given: str | None, there: Sequence[str], where: Path, preferred: Sequence[str]) -> str:
    """The split that was asked for; else the first of the preferred ones that is there.

    Raises:
        InputError: there is none, or not the one asked for.
    """
    if given is not None:
        if given not in there:
            raise InputError(f"no split {given!r} in {show(where)}; there are: {', '.join(there) or 'none'}")
        return given
    for name in preferred:
        if name in there:
            return name
    if not there:
        raise InputError(f"no splits in {show(where)}; expected one of {', '.join(preferred)}")
    return there[0]


def read_rows(path: Path, least: int, expected: str) -> list[list[str]]:
    """The lines of a file as lists of words, without empty lines and those that begin with '#'.

    Raises:
        InputError: it cannot be read, has no lines, or has one of fewer words than `least`.
    """
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < least:
            raise InputError(f"line {number} of {show(path)} is {line[:80]!r}; expected {expected}")
        rows.append(words)
    if not rows:
        raise InputError(f"{show(path)} has no lines; expected {expected} in each")
    return rows
