"""Output for a person, in which text from outside (names of files, classes and runs) is shown, never obeyed."""

from __future__ import annotations

import io
import sys


def escaped(text: str) -> str:
    """Text as one line that cannot control a terminal.

    Control characters, line ends, marks that change the direction of writing and bytes that are no text (surrogates)
    are written as in a Python string: `\\x1b`, `\\n`, `\\u202e`, `\\udce9`.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def say(text: object, *, error: bool = False) -> None:
    """Prints one line, `escaped`."""
    print(escaped(str(text)), file=sys.stderr if error else sys.stdout, flush=True)


def replace_unencodable() -> None:
    """Lets standard output replace the characters that its encoding lacks; standard error escapes them by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
