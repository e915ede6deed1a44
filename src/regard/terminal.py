"""Output for a person, in which text from outside (names of files, classes and runs) is shown, never obeyed."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Iterable

from regard.formatting import printable


def say(text: object, *, error: bool = False) -> None:
    """Prints one line, `printable`."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


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
