"""The page of the command line, of the help that each command prints."""

from __future__ import annotations

import os
import re
from importlib import import_module

from regard.cli.main import COMMANDS, module_of


def markdown() -> str:
    """A section for each command: its usage, what it does, and its options with their explanations."""
    os.environ["COLUMNS"] = "10000"  # each explanation on one line
    return "\n".join(f"## {command}\n\n{_section(command)}" for command in COMMANDS)


def _section(command: str) -> str:
    usage, *groups = import_module(module_of(command)).parser().format_help().split("\n\n")
    parts = [f"```text\n{usage.removeprefix('usage: ')}\n```"]
    for group in groups:
        title, *lines = group.splitlines()
        if not title.endswith(":"):  # a paragraph
            parts.append(_escaped(group))
            continue
        parts.append(f"**{title.removesuffix(':')}**")
        for line in lines:
            option, _, explanation = line.strip().partition("  ")
            if line.startswith("   "):
                parts[-1] += _escaped(option)  # a long option has its explanation in the next line
            elif option != "-h, --help":
                parts.append(f"`{option}`\n: {_escaped(explanation)}")
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    """Text whose code between backticks stays."""
    return "".join(
        part if part.startswith("`") else re.sub(r"([\\*_\[\]<>{}$#|~^])", r"\\\1", part)
        for part in re.split(r"(`[^`]*`)", " ".join(text.split()))
    )
