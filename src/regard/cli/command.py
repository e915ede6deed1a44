"""A command: its options and its output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

from jsonargparse import Namespace
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from regard.console import Console
from regard.errors import InputError
from regard.formatting import printable
from regard.launcher import rank_and_size
from regard.parser import Parser
from regard.terminal import command_line

_PIPE_WIDTH = 1000  # characters; output to files and pipes is not cut or wrapped


class Command:
    """A command with its arguments. Results go to standard output, everything else to standard error.

    If several processes share the work, only the first one prints.
    """

    def __init__(self, parser: Parser, arguments: Sequence[str]) -> None:
        self.parser, self.arguments = parser, list(arguments)
        self.main = rank_and_size()[0] == 0

    @cached_property
    def options(self) -> Namespace:
        """The values of all arguments. Raises InputError if an argument is wrong."""
        return self.parser.parse_args(self.arguments)

    @cached_property
    def typed(self) -> Namespace:
        """The values of the typed arguments only, without defaults."""
        return self.parser.parse_args(self.arguments, defaults=False)

    def options_over(self, defaults: Sequence[str]) -> Namespace:
        """The values of all arguments, with other defaults, which are written as arguments."""
        return self.parser.parse_args([*defaults, *self.arguments])

    def reject_options(self, names: Iterable[str], purpose: str) -> None:
        """Raises InputError, which names the purpose of the options, if one of them differs from its default."""
        for name in names:
            if self.options[name] != self.parser.get_default(name):
                (option,) = (action.option_strings[0] for action in self.parser._actions if action.dest == name)
                raise InputError(f"{option} is for {purpose}; leave it out")

    @property
    def line(self) -> str:
        """The whole command line, quoted for a shell."""
        return command_line([*self.parser.prog.split(), *self.arguments])

    @cached_property
    def console(self) -> Console:
        """The console for progress and notes, on standard error."""
        return Console(stderr=True, quiet=self.options.quiet or not self.main, soft_wrap=True)

    def note(self, text: object) -> None:
        """Prints one line to standard error, unless `--quiet`."""
        self.console.print(printable(text))

    def show(self, records: Any, *renderables: RenderableType) -> None:
        """Prints a result: the records (any JSON value) with `--json`, otherwise the tables and lines."""
        if self.main and self.options.json:
            print(json.dumps(records, allow_nan=False, indent=1))
        elif self.main:
            _print(Console(width=result_width()), renderables)

    @contextmanager
    def progress(self, name: str, unit: str = "images", total: int | None = None) -> Iterator[Callable[..., None]]:
        """Shows a progress bar with the rate, or, without a terminal, one line at the end.

        Yields a function that takes the number of units done, and the total if it was not known before.
        """
        start, done = time.monotonic(), 0

        def rate() -> str:
            return f"{done / max(time.monotonic() - start, 1e-9):,.0f} {unit}/s"

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        ends = (TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
        bar = Progress(*columns, *ends, console=self.console)
        task = bar.add_task(printable(name), total=total, rate="")
        with bar if self.console.is_terminal else nullcontext():

            def update(count: int, total: int | None = total) -> None:
                nonlocal done
                done = count
                bar.update(task, completed=count, total=total, rate=rate())

            yield update
        if not self.console.is_terminal:
            self.note(f"{name}: {done:,} {unit if done != 1 else unit.removesuffix('s')}, {rate()}")


def result_width() -> int:
    """The width of results, in characters."""
    console = Console()
    return console.width if console.is_terminal else _PIPE_WIDTH


def render_text(*renderables: RenderableType) -> str:
    """The text that `Command.show` prints into a pipe."""
    console = Console(width=_PIPE_WIDTH, no_color=True, force_terminal=False)
    with console.capture() as captured:
        _print(console, renderables)
    return captured.get()


def _print(console: Console, renderables: Iterable[RenderableType]) -> None:
    for renderable in renderables:
        console.print(renderable, soft_wrap=isinstance(renderable, str))
