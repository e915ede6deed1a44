"""The entry point of the command line: runs a command, and prints errors of the input as one line."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from regard.errors import KILLED_WORKER, DataWarning, InputError, ReportedElsewhere, first_line, unknown
from regard.launcher import rank_and_size
from regard.optional import require
from regard.terminal import print_line, replace_unencodable
from regard.version import __version__

# Command -> summary. Each command is a module of `regard.cli`, which is imported only when it runs, so that
# `regard --help` does not import torch.
COMMANDS = {
    "demo": "trains, corrects and measures networks on built-in data, and writes a report; a first step",
    "train": "trains the network of a recipe, with or without attention and a teacher",
    "evaluate": "measures accuracy and loss of networks",
    "bias": "measures on a data set whether networks look at the objects",
    "explain": "shows where a network looks in images: the most likely classes, and a CAM for each",
    "detect": "evaluates detectors, and draws the objects that one detects in images",
    "gates": "measures how well the gates of attention modules separate classes, by depth",
    "groups": "measures how strongly each group of a layer's channels supports a class",
    "complexity": "measures the cost of networks with and without attention: parameters, operations, time, memory",
    "table": "lists the published tables, and shows one with your runs beside its numbers",
    "reproduce": "fills a published table: trains the missing runs, on one machine or many",
    "runs": "lists the runs of a store with their progress and accuracy",
    "report": "writes one page that compares runs: seeds, curves, bias, CAMs, costs, commands",
    "recipes": "lists, shows and copies the recipes that come with regard",
    "import": "converts a published checkpoint to a file that the other commands take",
    "export": "writes a network as an ONNX file, checked with onnxruntime, or for the Hugging Face Hub",
    "completion": "prints the completion script of commands and options for bash, zsh or fish",
}

# Optional packages that a command always needs. Others are checked when an input needs them.
_NEEDS = {
    "demo": ("accelerate", "matplotlib", "pyarrow", "sklearn"),
    "train": ("accelerate",),
    "bias": ("matplotlib", "pyarrow"),
    "gates": ("matplotlib",),
    "groups": ("matplotlib",),
    "reproduce": ("accelerate",),
    "report": ("matplotlib",),
    "completion": ("shtab",),
}
# Commands that a launcher may start in several processes, which share the work, or for `reproduce` the runs.
_SHARED = ("train", "evaluate", "bias", "detect", "reproduce")
_MAX_MESSAGE = 4000  # characters of a message

_USAGE = """usage: regard COMMAND [OPTIONS]

Attention in convolutional networks: train with it, transfer it, measure where it looks.

commands:
{commands}

`regard COMMAND --help` explains the options of a command, `regard --version` prints the version.
REGARD_TRACEBACK=1 adds the traceback to an error message.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status, see `regard.errors`."""
    replace_unencodable()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE.format(commands="\n".join(f"  {name:<10} {about}" for name, about in COMMANDS.items())), end="")
        return 0
    if arguments[0] == "--version":
        print(f"regard {__version__}")
        return 0
    try:
        if arguments[0] not in COMMANDS:
            raise unknown("command", arguments[0], COMMANDS)
        _check_process_count(arguments[0])
        if not {"-h", "--help"} & set(arguments):
            require(f"regard {arguments[0]}", *_NEEDS.get(arguments[0], ()))
        module = import_module(module_of(arguments[0]))
        from regard.cli.command import Command

        with _data_warnings():
            status: int | None = module.main(Command(module.parser(), arguments[1:]))
            return status or 0
    except ReportedElsewhere as error:
        return _report(error, None)
    except InputError as error:
        return _report(error, f"{error!s:.{_MAX_MESSAGE}}")
    except KeyboardInterrupt:
        print("regard: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:  # such as a name that is too long, a full disk or a read-only one
        location = f"{error.filename}: " if error.filename else ""
        return _report(error, f"{location}{error.strerror or error}")
    except RuntimeError as error:
        if not KILLED_WORKER.search(str(error)):
            raise
        return _report(error, f"{first_line(error)}; if memory ran out, use fewer workers or smaller batches")


def module_of(command: str) -> str:
    """The module of a command; `import` is a keyword of Python."""
    return f"regard.cli.{'import_' if command == 'import' else command}"


def _report(error: Exception, message: str | None) -> int:
    """Prints the message, after the traceback if REGARD_TRACEBACK is set, and returns the exit status."""
    if os.environ.get("REGARD_TRACEBACK", "0") not in ("", "0"):
        for line in "".join(traceback.format_exception(error)).splitlines():
            print_line(line, error=True)
    if message is not None:
        rank = os.environ.get("RANK", "0")  # set by the launcher
        print_line(f"regard{f' (process {rank})' if rank != '0' else ''}: {message}", error=True)
    return error.status if isinstance(error, InputError) else InputError.status


def _check_process_count(command: str) -> None:
    """Raises InputError if a launcher started several processes of a command that runs in one."""
    rank, size = rank_and_size()
    if size > 1 and command not in _SHARED:
        message = f"regard {command} runs in one process, and {size} were started together; start one"
        raise ReportedElsewhere(message) if rank else InputError(message)


@contextlib.contextmanager
def _data_warnings() -> Iterator[None]:
    """Prints each different `DataWarning` once, as one line, in the first process."""
    messages: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        show_other = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if not issubclass(category, DataWarning):
                show_other(message, category, *rest, **more)
            elif str(message) not in messages and os.environ.get("RANK", "0") == "0":
                print_line(f"regard: {message}", error=True)
            messages.add(str(message))

        warnings.showwarning = show
        yield
