"""The command line: `main`, what commands share, and one file per command."""

from regard.cli.main import main

__all__ = ["main"]
