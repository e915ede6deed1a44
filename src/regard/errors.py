"""Errors and warnings about input, the exit statuses of commands, and checks of values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from functools import cache, partial
from numbers import Integral, Real
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: stopped by a signal, and saved; the same command resumes
LOCKED = 76  # another process uses the run
TAKEN_OVER = 77  # another process took over the run, because this one had stalled
"""Exit statuses, besides 0 (done) and 2 (wrong input)."""

KILLED_WORKER = re.compile(r"DataLoader worker .* (killed|exited)")
"""Torch's message about a killed worker, which interrupts the main thread at any point."""


class InputError(ValueError):
    """Input that a person can correct.

    The message is one line: what was found, what was expected and what to do. The command line prints it without a
    traceback and exits with `status`.
    """

    status = 2


class DataWarning(UserWarning):
    """A warning that part of a data set is skipped, missing or too small."""


class UnfitImage(InputError):
    """An image has a size that the network does not accept."""


class LostProcess(InputError):
    """Another process of the run has died. The run can be resumed from its last checkpoint."""

    status = INTERRUPTED


class Locked(InputError):
    """Another process uses the run."""

    status = LOCKED


class ReportedElsewhere(InputError):
    """Another process of the run prints the message."""


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
    """The error for an unknown name: lists the known names, and suggests the closest if one is similar."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return InputError(f"unknown {kind} {name!r}{hint}; known: {', '.join(names)}")


def check_interval(name: str, value: float, interval: str) -> None:
    """Raises InputError if a number is outside an interval, which is written as "[0, 1)" or "[1, 2^63)"."""
    bounds = (bound.partition("^") for bound in interval[1:-1].split(","))
    low, high = (float(base) ** float(power or 1) for base, _, power in bounds)
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below):
        raise InputError(f"{name} is {value!r:.40}; it has to be in {interval}")


def check_number(name: str, value: Any, interval: str, *, whole: bool) -> None:
    """Raises InputError if a value is not a number (an integer if `whole`) or is outside the interval."""
    kind: Any = Integral if whole else Real
    if isinstance(value, bool) or not isinstance(value, kind):
        raise InputError(f"{name} is {value!r:.40}; it has to be a {'whole ' if whole else ''}number")
    check_interval(name, value, interval)


def check_fields(instance: Any, prefix: str = "") -> None:
    """Checks the fields of a dataclass, and of nested dataclasses, against their types.

    The type states the interval of a number, `Annotated[int, "[1, 10^6]"]`, or the choices, `Literal`. None is in every
    interval. The InputError names the field after the prefix.
    """
    for name, kind in _field_types(instance.__class__).items():
        value = getattr(instance, name)
        if is_dataclass(value):
            check_fields(value, f"{prefix}{name}.")
        elif get_origin(kind) is Annotated and value is not None:
            whole = float not in (kind.__origin__, *get_args(kind.__origin__))
            check_number(f"{prefix}{name}", value, kind.__metadata__[0], whole=whole)
        elif get_origin(kind) is Literal and value not in get_args(kind):
            raise unknown(f"{prefix}{name}", value, get_args(kind))


_field_types = cache(partial(get_type_hints, include_extras=True))  # takes longer than the checks


def first_few(texts: Sequence[str], count: int = 3) -> str:
    """The first texts, separated by commas, and an ellipsis if there are more."""
    return ", ".join(texts[:count]) + (", …" if len(texts) > count else "")


def one_line(error: BaseException) -> str:
    """The whole message of another library's error, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of another library's error message, at most 200 characters of it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
