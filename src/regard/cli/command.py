"""A command: its options as they were typed, and what it prints."""

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

_PIPE_WIDTH = 1000  # characters: in files and pipes nothing is cut or folded


class Command:
    """A command as it was typed. Results go to standard output, all else to standard error.

    Of several processes that share the work, the first one prints.

    Args:
        parser: of the command, see `options.make_parser`.
        arguments: after its name.
    """

    def __init__(self, parser: Parser, arguments: Sequence[str]) -> None:
        self.parser, self.arguments = parser, list(arguments)
        self.main = rank_and_size()[0] == 0

    @cached_property
    def options(self) -> Namespace:
        """The values of all arguments. Raises InputError for what is wrong with them."""
        return self.parser.parse_args(self.arguments)

    @cached_property
    def given(self) -> Namespace:
        """The values of the arguments that were typed, without defaults."""
        return self.parser.parse_args(self.arguments, defaults=False)

    def over(self, defaults: Sequence[str]) -> Namespace:
        """The values of all arguments over other defaults, written as arguments."""
        return self.parser.parse_args([*defaults, *self.arguments])

    def check_not_given(self, names: Iterable[str], meant: str) -> None:
        """Raises InputError for an option of these names that has another value than its default.

        Args:
            names: of the values in `options`.
            meant: what the options are for.
        """
        for name in names:
            if self.options[name] != self.parser.get_default(name):
                (option,) = (action.option_strings[0] for action in self.parser._actions if action.dest == name)
                raise InputError(f"{option} is for {meant}; leave it out")

    @property
    def line(self) -> str:
        """The whole command, to type it again."""
        return command_line([*self.parser.prog.split(), *self.arguments])

    @cached_property
    def console(self) -> Console:
        """For progress and notes, on standard error."""
        return Console(stderr=True, quiet=self.options.quiet or not self.main, soft_wrap=True)

    def note(self, text: object) -> None:
        """Prints one line to standard error, unless `--quiet`."""
        self.console.print(printable(text))

    def show(self, records: Any, *renderables: RenderableType) -> None:
        """Prints a result: its records with `--json`, else what is given of rich, tables and strings.

        Args:
            records: a list of flat dicts, or another value that JSON has.
            renderables: strings are printed as lines.
        """
        if self.main and self.options.json:
            print(json.dumps(records, allow_nan=False, indent=1))
        elif self.main:
            _print(Console(width=result_width()), renderables)

    @contextmanager
    def progress(self, name: str, unit: str = "images", total: int | None = None) -> Iterator[Callable[..., None]]:
        """A bar with what is done of how much, and the rate; where there is no terminal, one line at the end.

        Args:
            name: in front of the bar.
            unit: what is counted.
            total: how much there is to do, if that is known.

        Yields:
            a function that takes how much is done, and the total if that is known by then.
        """
        began, done = time.monotonic(), 0

        def rate() -> str:
            return f"{done / max(time.monotonic() - began, 1e-9):,.0f} {unit}/s"

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
    """Characters of a line of results."""
    console = Console()
    return console.width if console.is_terminal else _PIPE_WIDTH


def as_text(*renderables: RenderableType) -> str:
    """What `Command.show` prints of them into a pipe."""
    console = Console(width=_PIPE_WIDTH, no_color=True, force_terminal=False)
    with console.capture() as captured:
        _print(console, renderables)
    return captured.get()


def _print(console: Console, renderables: Iterable[RenderableType]) -> None:
    for one in renderables:
        console.print(one, soft_wrap=isinstance(one, str))
