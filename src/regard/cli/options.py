"""The parsers of the commands, and the options that several of them have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from regard.errors import InputError
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


def add_attention(parser: Parser) -> None:
    """Adds the attention of a network by name, and its options."""
    parser.add_argument("--attention", help="attention module of the network")
    parser.add_argument("--gate", default="sigmoid", help="gate to use: sigmoid, sub-attention-1, …")
    add_attention_stages(parser)
    parser.add_argument(
        "--attention-options", type=dict[str, Any], default={}, help="options of the attention module: '{groups: 16}'"
    )
    parser.add_argument(
        "--attention-start",
        choices=["published", "identity"],
        help="how attention begins: published, or identity (with pretrained weights, if not given)",
    )
    parser.add_argument("--model-options", type=dict[str, Any], default={}, help="options of the network itself")


def add_attention_stages(parser: Parser) -> None:
    """Adds `--attention-stages`."""
    parser.add_argument(
        "--attention-stages", type=list[int], help="stages that have attention, counted from 1; all if not given"
    )


def attention_of(options: Namespace) -> dict[str, Any]:
    """What `add_attention` parsed, as fields of `training.ModelRecipe`."""
    names = ("attention", "gate", "attention_stages", "attention_options", "attention_start")
    return {name: options[name] for name in names} | {"options": options.model_options}


def check_place(out: str | None) -> None:
    """Raises InputError if a file cannot be written where it is to be."""
    if out and not Path(out).absolute().parent.is_dir():
        raise InputError(f"there is no folder {str(Path(out).parent)!r} to write {out} to")
