"""The parser of arguments that all commands and recipes use, on jsonargparse."""

from __future__ import annotations

import difflib
import json
import re
from argparse import Action
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from regard.errors import InputError, check_interval, first_line
from regard.strict_yaml import check_aliases, read_yaml

_LONGEST = 1000  # characters of a message


class HelpFormatter(DefaultHelpFormatter):
    """Help without types: positionals in the usage, and defaults where they say something."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"max_help_position": 32, **settings})

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and heading[0].upper() + heading[1:])

    def add_usage(self, usage: str | None, actions: Iterable[Action], *args: Any, **settings: Any) -> None:
        if usage is None:
            needed = [action for action in actions if not action.option_strings or action.required]
            parts = [" ".join(map(str, (*action.option_strings[:1], self._values(action)))) for action in needed]
            usage = " ".join(["%(prog)s", *parts, "[OPTIONS]"])
        super().add_usage(usage, [], *args, **settings)

    def _values(self, action: Action) -> str:
        if action.metavar is None and (action.type is strings or _item(getattr(action, "_typehint", None))):
            return "A,B"
        return self._format_args(action, self._get_default_metavar_for_optional(action))

    def _get_help_string(self, action: Action) -> str:
        default, text = action.default, action.help or ""
        unused = not action.option_strings and action.nargs != "?"
        if (
            unused
            or action.nargs == 0
            or default is None
            or default is False
            or default in ("", "==SUPPRESS==", [], {})
        ):
            return text
        if isinstance(default, list | tuple):
            default = ",".join(map(str, default))
        return f"{text} (default: {str(default).lower() if default is True else default})"

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{action.option_strings[0]} {self._values(action)}"  # without `--list+` of jsonargparse

    def _get_default_metavar_for_positional(self, action: Action) -> str:
        return action.dest.upper()

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        kind: Any = getattr(action, "_typehint", action.type)
        kinds = [one for one in get_args(kind) if one is not type(None)]
        short = {int: "N", float: "X"}.get(kinds[0] if len(kinds) == 1 else kind)
        return short or super()._get_default_metavar_for_optional(action)


class Parser(ArgumentParser):
    """Parses the arguments of a command; what is wrong is an `InputError`, not an exit.

    Positionals and options stand in any order. Options take one value each, or none (flags). Hyphens and underscores in
    the name of an option are the same. A list is written with commas, `--stages 3,4`, or as in YAML. Of a group of
    options that has a name, the name alone will do: `--data cifar10` is `--data.name cifar10`.
    """

    def __init__(self, **settings: Any) -> None:
        # jsonargparse also makes parsers of this class, with settings of its own.
        super().__init__(
            **{"allow_abbrev": False, "formatter_class": HelpFormatter, **settings, "exit_on_error": False}
        )
        self._positionals.title = "arguments"
        self._intervals: dict[str, tuple[str, str]] = {}  # by destination: the name and the interval of an option

    def add_argument(self, *names: str, interval: str | None = None, **settings: Any) -> Action:
        """As of argparse; a string, where no type is given, and None, where there is no default.

        Args:
            names: of the argument, as it is typed.
            interval: that a number has to be in, such as "[1, 2^24]".
            settings: of jsonargparse.
        """
        if not settings.keys() & {"action", "choices"}:
            kind = settings.setdefault("type", str)
            optional = names[0].startswith("-") and not settings.get("required") or settings.get("nargs") == "?"
            if optional and settings.get("default") is None and kind is not strings:
                settings |= {"type": kind | None, "default": None}
        action: Action = super().add_argument(*names, **settings)
        if interval is not None:
            self._intervals[action.dest] = (names[0], interval)
        return action

    def parse_args(self, *given: Any, **settings: Any) -> Any:
        """The values of all arguments.

        Args:
            given: the arguments as typed, a sequence of strings.
            settings: of jsonargparse; with `defaults=False` only what is given is among the values.

        Raises:
            InputError: an option is unknown, a value is missing, does not fit or is out of its interval.
        """
        try:
            args: Sequence[str] = (*given, settings.pop("args", None))[0] or ()
            for argument in args:
                check_aliases(argument.partition("=")[2] if argument.startswith("--") else argument)
                if "\0" in argument:  # from a recipe
                    raise InputError(f"{argument!r:.100} holds a zero byte, which is in no name")
            options, positionals = self.split(args)
            between = ["--"] if any(positional.startswith("-") for positional in positionals) else []
            parsed = super().parse_args([*options, *between, *positionals], *given[1:], **settings)
        except InputError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RecursionError, ValueError) as error:  # of !!bool no
            raise InputError(f"the value of an option cannot be read ({first_line(error)})") from error
        for dest, (name, interval) in self._intervals.items():
            if parsed.get(dest) is not None:
                check_interval(name, parsed[dest], interval)
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = " ".join(str(message).split())
        if required := re.search(r'Option "(\w+)" is required|arguments are required: (\w+)', message):
            action = next(a for a in self._actions if (required[1] or required[2]) in (a.dest, a.metavar))
            name = action.option_strings[0] if action.option_strings else action.metavar or action.dest.upper()
            message = f"{name} is missing: {action.help}"
        if refused := re.match(r'Parser key "([\w.]+)": .*(?:Given value|Got value): (.*)', message):
            action = next(a for a in self._actions if a.dest == refused[1])
            choices = re.search(r"Literal\[(.*?)\]", message)
            expected = f"expected {choices[1]}" if choices else " ".join(str(action.help).split())
            message = f"{action.option_strings[0]} does not take {refused[2]}: {expected}"
        raise InputError(message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…") from ex

    def split(self, args: Sequence[str]) -> tuple[list[str], list[str]]:
        """The options, flags as `--name` and others as `--name=value`, and the positionals.

        Raises:
            InputError: an option is unknown, or a value is missing.
        """
        options: list[str] = []
        positionals: list[str] = []
        remaining = list(args)
        while remaining:
            argument = remaining.pop(0)
            if argument == "--":
                positionals += remaining
                break
            if not argument.startswith("-") or argument == "-":
                positionals.append(argument)
                continue
            typed, equals, value = argument.partition("=")
            name, action = self._option(typed)
            if action.nargs == 0:
                options.append(f"{name}{equals}{value}")
                continue
            if not equals:
                value = self._value(name, action, remaining)
            if f"{name}.name" in self._option_string_actions and not _is(dict, value):
                name = f"{name}.name"
            options.append(f"{name}={_as_typed(value, getattr(action, '_typehint', None))}")
        return options, positionals

    def _option(self, typed: str) -> tuple[str, Action]:
        """The name of an option, or of a key in an option that is a dict, and the option."""
        if typed in self._option_string_actions:
            return typed, self._option_string_actions[typed]
        known = {_plain(name): (name, action) for name, action in self._option_string_actions.items()}
        if _plain(typed) in known:
            return known[_plain(typed)]
        option, dot, key = typed.rpartition(".")
        while dot:
            group = any(name.startswith(f"{_plain(option)}.") for name in known)
            if _plain(option) in known and not group:
                name, action = known[_plain(option)]
                return name + typed[len(option) :], action
            option, dot, key = option.rpartition(".")
        names = [name for name in self._option_string_actions if name.startswith("--")]
        message = f"{self.prog} has no option {typed}{nearest(typed, names)}"
        raise InputError(message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…")

    def _value(self, name: str, action: Action, remaining: list[str]) -> str:
        if getattr(action, "_typehint", None) is bool and (not remaining or remaining[0].lower() not in _TRUTHS):
            return "true"
        if not remaining or remaining[0].startswith("--"):
            raise InputError(f"{name} needs a value: {action.help}")
        return remaining.pop(0)


_TRUTHS = ("true", "false", "yes", "no")


def nearest(name: str, known: Sequence[str]) -> str:
    """A question after the known name that is nearest, empty where none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _plain(name: str) -> str:
    return name.replace("-", "_")


def strings(value: str | list[str]) -> list[str]:
    """The type of an option that takes a list of any strings: "a,b", or as in YAML where a string has a comma."""
    if not isinstance(value, str):
        return value
    items = read_yaml(value) if _is(list, value) else value.split(",")
    return [str(item).strip() for item in items if str(item).strip()]


def _as_typed(value: str, kind: Any) -> str:
    """A list with commas as YAML, if a list or tuple is asked for."""
    item = _item(kind)
    if item is None or value == "null" or _is(list, value):
        return value
    return json.dumps(strings(value)) if item is str else f"[{', '.join(strings(value))}]"


def _is(kind: type, value: str) -> bool:
    """Whether a value is a list or dict of YAML."""
    try:
        return isinstance(read_yaml(value), kind)
    except InputError:
        return False


def _item(kind: Any) -> Any:
    """The type of the items of a list or tuple, or of one that may be None; None of others."""
    kinds = [one for one in get_args(kind) if one is not type(None)]
    if get_origin(kind) in (Union, UnionType, Annotated) and (len(kinds) == 1 or get_origin(kind) is Annotated):
        return _item(kinds[0])
    return kinds[0] if get_origin(kind) in (list, tuple) and kinds else None
