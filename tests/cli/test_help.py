"""`--help` of every command, against the reviewed texts in tests/snapshots/help."""

from __future__ import annotations

from importlib import import_module

import pytest
from support.snapshots import check_snapshot

from regard.cli.main import COMMANDS, module_of


@pytest.mark.parametrize("command", COMMANDS)
def test_help_matches_its_snapshot(command: str) -> None:
    """Usage, description, arguments and options; fields of recipes are documented where they are defined."""
    parser = import_module(module_of(command)).parser()
    lines = [parser.format_usage(), str(parser.description)]
    for action in parser._actions:
        name = action.option_strings[0] if action.option_strings else str(action.metavar or action.dest.upper())
        if "." not in name and action.help != "==SUPPRESS==":
            lines.append(f"{name}: {action.help}")
    check_snapshot(f"help/{command}", "\n".join(" ".join(line.split()) for line in lines))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command: str) -> None:
    parser = import_module(module_of(command)).parser()
    assert not [action.dest for action in parser._actions if not action.help]
    assert parser.format_help().startswith(f"usage: regard {command}")
