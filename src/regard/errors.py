"""The one error a person is meant to read, and what commands exit with."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: stopped when asked to, and saved; the same command goes on
LOCKED = 76  # another process works in the run
TAKEN_OVER = 77  # another process took the run over, for this one had stood still
"""Exit statuses, besides 0 for done and 2 for wrong input."""

KILLED_WORKER = re.compile(r"DataLoader worker .* (killed|exited)")
"""What torch says of one, wherever the main thread is just then."""


class InputError(ValueError):
    """Input that a person can correct.

    The message is one line that says what was found, what was expected and what to do. The command line prints it
    without a traceback and exits with `status`.
    """

    status = 2


class DataWarning(UserWarning):
    """What is passed over in a data set, or lacking in it, or too small."""


class UnfitImage(InputError):
    """An image has a size that a network does not take."""


class LostProcess(InputError):
    """Another process of a run is gone. The run can be resumed from its last checkpoint."""

    status = INTERRUPTED


class Locked(InputError):
    """Another process works in the run."""

    status = LOCKED


class ReportedElsewhere(InputError):
    """Another process of the run says what is wrong."""


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not among the known ones: lists them, nearest first if one is near."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return InputError(f"unknown {kind} {name!r}{hint}; known: {', '.join(names)}")


def check_interval(name: str, value: float, interval: str) -> None:
    """Raises InputError where a number is not in an interval, written as "[0, 1)" or "[1, 2^63)"."""
    bounds = (bound.partition("^") for bound in interval[1:-1].split(","))
    low, high = (float(base) ** float(power or 1) for base, _, power in bounds)
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below):
        raise InputError(f"{name} is {value!r:.40}; it has to be in {interval}")


def check_number(name: str, value: Any, interval: str, *, whole: bool) -> None:
    """Raises InputError where a value is no number, no whole one where `whole`, or not in an interval."""
    kind: Any = Integral if whole else Real
    if isinstance(value, bool) or not isinstance(value, kind):
        raise InputError(f"{name} is {value!r:.40}; it has to be a {'whole ' if whole else ''}number")
    check_interval(name, value, interval)


def check_fields(instance: Any, prefix: str = "") -> None:
    """Checks the fields of a dataclass, and of dataclasses in them, against their types.

    Intervals stand in the type, `Annotated[int, "[1, 10^6]"]`, which None may leave, and choices are a `Literal`.

    Args:
        instance: of a dataclass.
        prefix: of the names of its fields in the message.

    Raises:
        InputError: the first field that is out of its interval, no whole number where one is asked for, or none of its
            choices.
    """
    for name, kind in get_type_hints(type(instance), include_extras=True).items():
        value = getattr(instance, name)
        if is_dataclass(value):
            check_fields(value, f"{prefix}{name}.")
        elif get_origin(kind) is Annotated and value is not None:
            whole = float not in (kind.__origin__, *get_args(kind.__origin__))
            check_number(f"{prefix}{name}", value, kind.__metadata__[0], whole=whole)
        elif get_origin(kind) is Literal and value not in get_args(kind):
            raise unknown(f"{prefix}{name}", value, get_args(kind))


def first_few(texts: Sequence[str], count: int = 3) -> str:
    """The first texts: a, b, c, …"""
    return ", ".join(texts[:count]) + (", …" if len(texts) > count else "")


def one_line(error: BaseException) -> str:
    """All that an error of another library says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line of at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
