"""Output for a person, in which text from outside (names of files, classes and runs) is shown, never obeyed."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterable


def escaped(text: str) -> str:
    """Text as one line that cannot control a terminal.

    Control characters, line ends, marks that change the direction of writing and bytes that are no text (surrogates)
    are written as in a Python string: `\\x1b`, `\\n`, `\\u202e`, `\\udce9`.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def escaped_lines(text: str) -> str:
    """As `escaped`, line by line."""
    return "\n".join(map(escaped, text.split("\n")))


def _escaped(character: str) -> str:
    """Spaces of all widths stay, which Python does not call printable."""
    shown = character.isprintable() or unicodedata.category(character) == "Zs"
    return character if shown else repr(character)[1:-1]


def say(text: object, *, error: bool = False) -> None:
    """Prints one line, `escaped`."""
    print(escaped(str(text)), file=sys.stderr if error else sys.stdout, flush=True)


def listed(text: str | None) -> list[str]:
    """The words of an option with commas between them."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def duration(seconds: float) -> str:
    """In words: 45 s, 12 min, 3 h 05 min, 2 days 4 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} days {hours} h"


def command_line(arguments: Iterable[str]) -> str:
    """Arguments as bash and zsh take them, in one line that can be printed: other bytes as `$'\\xe9'`."""
    return " ".join(map(_quoted, arguments))


def _quoted(argument: str) -> str:
    if argument.isprintable():
        return shlex.quote(argument)
    known = re.sub(r"[\ud800-\udc7f\udd00-\udfff]", "?", argument)  # surrogates that stand for no byte
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(known))
    return f"$'{''.join(plain)}'"


def replace_unencodable() -> None:
    """Lets standard output replace the characters that its encoding lacks; standard error escapes them by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
