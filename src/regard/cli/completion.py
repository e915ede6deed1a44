"""`regard completion`: a script that makes a shell complete commands, options and choices."""

from __future__ import annotations

from argparse import SUPPRESS, Action, ArgumentParser
from importlib import import_module
from typing import Any, Literal, get_args, get_origin

from regard.cli.command import Command
from regard.parser import Parser

_SHELLS = ("bash", "zsh", "fish")
_PATHS = ("out", "mask", "images", "runs", "run", "store", "checkpoint", "model", "models", "recipe", "table", "target")


def parser() -> Parser:
    parser = Parser(
        prog="regard completion",
        description="Prints a script that makes a shell complete commands, options and choices. For bash: regard "
        "completion bash > ~/.local/share/bash-completion/completions/regard",
    )
    parser.add_argument("shell", choices=_SHELLS, help="shell to write the script for")
    return parser


def main(command: Command) -> None:
    shell = command.options.shell
    import shtab

    from regard.cli.main import COMMANDS, module_of  # imported here, since it imports this module

    root = ArgumentParser(prog="regard")
    root.add_argument("--version", action="store_true", help="print the version")
    commands = root.add_subparsers()
    for name, about in COMMANDS.items():
        completed = commands.add_parser(name, help=about, add_help=False)
        for action in import_module(module_of(name)).parser()._actions:
            if action.help != SUPPRESS:
                completed._add_action(_completed(action))
    print(shtab.complete(root, shell=shell), end="")


def _completed(action: Action) -> Action:
    """An option in the form that shtab completes: with its choices, or as a path."""
    choices = _choices(getattr(action, "_typehint", None))
    plain = Action(
        [name for name in action.option_strings if not name.endswith("+")],
        action.dest,
        nargs=action.nargs,
        choices=list(action.choices or choices) or None,
        help=" ".join((action.help or "").split()).replace("%", "%%"),
        metavar=action.metavar if isinstance(action.metavar, str) else None,
    )
    if not plain.choices and action.dest.rpartition(".")[2] in (*_PATHS, "folder"):
        import shtab

        vars(plain)["complete"] = shtab.FILE
    return plain


def _choices(kind: Any) -> tuple[str, ...]:
    if kind is bool:
        return ("true", "false")
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    return next((choices for member in get_args(kind) if (choices := _choices(member))), ())
