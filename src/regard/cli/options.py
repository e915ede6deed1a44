"""The parsers of the commands, and the options that several of them have."""

from __future__ import annotations

from regard.parser import Parser


def make_parser(command: str, description: str, *, epilog: str | None = None) -> Parser:
    """The parser of a command, with `--json` and `--quiet`.

    Args:
        command: its name.
        description: what it does, in sentences.
        epilog: examples.
    """
    parser = Parser(prog=f"regard {command}", description=description, epilog=epilog)
    parser.add_argument("--json", action="store_true", help="print the results as JSON to standard output")
    parser.add_argument("--quiet", action="store_true", help="print no progress and no notes")
    return parser
