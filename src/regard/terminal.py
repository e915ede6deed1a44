"""Terminal output. Control characters in text from outside (names of files, classes and runs) have no effect."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Iterable

from regard.formatting import printable


def print_line(text: object, *, error: bool = False) -> None:
    """Prints one line, `printable`."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


def command_line(arguments: Iterable[str]) -> str:
    """Arguments quoted for bash and zsh, in one printable line; other bytes are written as `$'\\xe9'`."""
    return " ".join(map(_quoted, arguments))


def _quoted(argument: str) -> str:
    if argument.isprintable():
        return shlex.quote(argument)
    encodable = re.sub(r"[\ud800-\udc7f\udd00-\udfff]", "?", argument)  # surrogates that encode no byte
    plain = (
        chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(encodable)
    )
    return f"$'{''.join(plain)}'"


def replace_unencodable() -> None:
    """Makes standard output replace characters that its encoding lacks; standard error already escapes them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
