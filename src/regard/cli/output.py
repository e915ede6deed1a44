"""What commands print: results to standard output, all else to standard error."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from jsonargparse import Namespace
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from regard.console import Console
from regard.formatting import printable

_PIPE_WIDTH = 1000  # characters: in files and pipes nothing is cut or folded


class Output:
    """Prints the results, notes and progress of a command.

    Args:
        options: of the command, with `json` and `quiet`.
        main: whether this process prints; of several that share the work, one does.

    Attributes:
        console: for progress and notes, on standard error.
    """

    def __init__(self, options: Namespace, *, main: bool = True) -> None:
        self._json, self._main = options.json, main
        self.console = Console(stderr=True, quiet=options.quiet or not main, soft_wrap=True)

    def note(self, text: object) -> None:
        """Prints one line to standard error, unless `--quiet`."""
        self.console.print(printable(text))

    def show(self, records: Any, *renderables: RenderableType) -> None:
        """Prints a result: its records with `--json`, else what is given of rich, tables and strings.

        Args:
            records: a list of flat dicts, or another value that JSON has.
            renderables: strings are printed as lines.
        """
        if not self._main:
            return
        if self._json:
            print(json.dumps(records, allow_nan=False, indent=1))
            return
        _print(Console(width=self.width), renderables)

    @property
    def width(self) -> int:
        """Characters of a line of results."""
        console = Console()
        return console.width if console.is_terminal else _PIPE_WIDTH

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


def as_text(*renderables: RenderableType) -> str:
    """What `Output.show` prints of them into a pipe."""
    console = Console(width=_PIPE_WIDTH, no_color=True, force_terminal=False)
    with console.capture() as captured:
        _print(console, renderables)
    return captured.get()


def _print(console: Console, renderables: Iterable[RenderableType]) -> None:
    for one in renderables:
        console.print(one, soft_wrap=isinstance(one, str))
