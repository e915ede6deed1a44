"""The command line: one file per command, and what commands share."""

from regard.cli.main import main

__all__ = ["main"]
