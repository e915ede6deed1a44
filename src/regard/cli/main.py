"""The command line: finds the command, and says in one line what is wrong with the input."""

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
from regard.terminal import replace_unencodable, say
from regard.version import __version__

# What each is for. A command lives in the module of its name in `regard.cli`, which is only imported when it is
# called, so that `regard --help` does not wait for torch.
COMMANDS = {
    "demo": "trains, corrects and measures networks on the built-in data, and writes one page; a first step",
    "train": "trains the network of a recipe, with or without attention and a teacher",
    "evaluate": "measures accuracy and loss of networks",
    "bias": "measures where networks look, against the regions of the objects, over a whole data set",
    "explain": "shows where a network looks in some images: the likeliest classes, and a CAM for each",
    "detect": "measures detectors, and draws what one detects in images",
    "gates": "measures how far the gates of attention modules tell classes apart, by depth",
    "groups": "measures how much each group of a layer's channels alone speaks for a class",
    "complexity": "measures what networks cost with and without attention: parameters, operations, time, memory",
    "table": "lists the published tables, and shows one with your own runs beside its numbers",
    "reproduce": "fills a published table: runs what is missing, on this machine or many",
    "runs": "lists the runs of a store: how far they are, and their accuracy",
    "report": "writes one page of runs, and compares them: seeds, curves, bias, CAMs, costs, commands",
    "recipes": "lists, shows and copies the recipes that come with regard",
    "import": "turns a checkpoint from elsewhere into a file that the other commands take",
    "export": "writes a network as an ONNX file, checked with onnxruntime, or for the Hugging Face Hub",
    "completion": "prints the script with which bash, zsh or fish completes commands and options",
}

# What they need besides the base dependencies, asked for before their work; others only need such for some inputs.
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
# Of these a launcher may start several processes: they share the work, or, of the last, the runs of a store.
_SHARED = ("train", "evaluate", "bias", "detect", "reproduce")
_LONGEST = 4000  # characters of a message

_USAGE = """usage: regard COMMAND [OPTIONS]

Attention in convolutional networks: train with it, transfer it, measure where it looks.

commands:
{commands}

`regard COMMAND --help` explains the options of a command, `regard --version` prints the version.
With REGARD_TRACEBACK=1 an error of one line also shows what is behind it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; 0 done, 2 wrong input, 75 interrupted and resumable, 76 another process works in the run."""
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
        _check_alone(arguments[0])
        if not {"-h", "--help"} & set(arguments):
            require(f"regard {arguments[0]}", *_NEEDS.get(arguments[0], ()))
        module = import_module(module_of(arguments[0]))
        from regard.cli.command import Command

        with _shown_warnings():
            status: int | None = module.main(Command(module.parser(), arguments[1:]))
            return status or 0
    except ReportedElsewhere as error:
        return _failed(error, None)
    except InputError as error:
        return _failed(error, f"{error!s:.{_LONGEST}}")
    except KeyboardInterrupt:
        print("regard: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:  # a name that is too long, a disk that is full or may only be read
        place = f"{error.filename}: " if error.filename else ""
        return _failed(error, f"{place}{error.strerror or error}")
    except RuntimeError as error:
        if not KILLED_WORKER.search(str(error)):
            raise
        return _failed(error, f"{first_line(error)}; if memory ran out, give fewer workers or smaller batches")


def module_of(command: str) -> str:
    """The module of a command; `import` is a keyword of Python."""
    return f"regard.cli.{'import_' if command == 'import' else command}"


def _failed(error: Exception, message: str | None) -> int:
    """Prints the message in a line, if there is one, and gives the exit status.

    If REGARD_TRACEBACK is set, what is behind it comes first: causes, and notes of DataLoader workers.
    """
    if os.environ.get("REGARD_TRACEBACK", "0") not in ("", "0"):
        for line in "".join(traceback.format_exception(error)).splitlines():
            say(line, error=True)
    if message is not None:
        rank = os.environ.get("RANK", "0")  # of a process that a launcher started
        say(f"regard{f' (process {rank})' if rank != '0' else ''}: {message}", error=True)
    return error.status if isinstance(error, InputError) else InputError.status


def _check_alone(command: str) -> None:
    """Raises InputError if several processes were started of a command that does not share its work."""
    rank, size = rank_and_size()
    if size > 1 and command not in _SHARED:
        message = f"regard {command} works in one process, and {size} were started together; start one"
        raise ReportedElsewhere(message) if rank else InputError(message)


@contextlib.contextmanager
def _shown_warnings() -> Iterator[None]:
    """Shows what there is to know of the data, each once, in a line, by the first process."""
    messages: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if not issubclass(category, DataWarning):
                others(message, category, *rest, **more)
            elif str(message) not in messages and os.environ.get("RANK", "0") == "0":
                say(f"regard: {message}", error=True)
            messages.add(str(message))

        warnings.showwarning = show
        yield
