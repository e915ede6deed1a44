"""The argument parser of all commands and recipes, built on jsonargparse."""

from __future__ import annotations

import difflib
import json
import re
from argparse import Action
from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from regard.errors import InputError, check_interval, first_line
from regard.strict_yaml import check_aliases, read_yaml

_MAX_MESSAGE = 1000  # characters of a message


class HelpFormatter(DefaultHelpFormatter):
    """Formats help without types: the usage shows positionals and required options, and defaults are shown if set."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"max_help_position": 32, **settings})

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and heading[0].upper() + heading[1:])

    def add_usage(self, usage: str | None, actions: Iterable[Action], *args: Any, **settings: Any) -> None:
        if usage is None:
            required = [action for action in actions if not action.option_strings or action.required]
            parts = [" ".join(map(str, (*action.option_strings[:1], self._placeholder(action)))) for action in required]
            usage = " ".join(["%(prog)s", *parts, "[OPTIONS]"])
        super().add_usage(usage, [], *args, **settings)

    def _placeholder(self, action: Action) -> str:
        if action.metavar is None and (action.type is strings or _item_type(getattr(action, "_typehint", None))):
            return "A,B"
        return self._format_args(action, self._get_default_metavar_for_optional(action))

    def _get_help_string(self, action: Action) -> str:
        default, text = action.default, action.help or ""
        has_no_default = not action.option_strings and action.nargs != "?"
        if (
            has_no_default
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
        return f"{action.option_strings[0]} {self._placeholder(action)}"  # without jsonargparse's `--list+`

    def _get_default_metavar_for_positional(self, action: Action) -> str:
        return action.dest.upper()

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        kind: Any = getattr(action, "_typehint", action.type)
        members = [member for member in get_args(kind) if member is not type(None)]
        short = {int: "N", float: "X"}.get(members[0] if len(members) == 1 else kind)
        return short or super()._get_default_metavar_for_optional(action)


class Parser(ArgumentParser):
    """Parses the arguments of a command. Wrong arguments raise an `InputError`; the parser never exits.

    Positionals and options may come in any order. An option takes one value, or none if it is a flag. Hyphens and
    underscores in option names are equivalent. A list is comma separated, `--stages 3,4`, or YAML. If a group of
    options has a `name`, the group itself takes it: `--data cifar10` is `--data.name cifar10`.
    """

    def __init__(self, **settings: Any) -> None:
        # jsonargparse also creates parsers of this class, with its own settings.
        super().__init__(
            **{"allow_abbrev": False, "formatter_class": HelpFormatter, **settings, "exit_on_error": False}
        )
        self._positionals.title = "arguments"
        self._intervals: dict[str, tuple[str, str]] = {}  # destination -> name and interval of an option

    def add_argument(self, *names: str, interval: str | None = None, **settings: Any) -> Action:
        """Adds an argument, like argparse. The type is `str` if not given, and an option without a default may be None.

        `interval` is the interval that a number has to be in, such as "[1, 2^24]".
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

    def parse_args(self, args: Iterable[str] | None = None, *rest: Any, **settings: Any) -> Any:
        """Returns the values of all arguments, or with `defaults=False` only of those in `args`.

        Raises InputError if an option is unknown, or a value is missing, has the wrong type or is outside its interval.
        """
        arguments = list(args or ())
        try:
            for argument in arguments:
                check_aliases(argument.partition("=")[2] if argument.startswith("--") else argument)
                if "\0" in argument:  # from a recipe
                    raise InputError(f"{argument!r:.100} contains a zero byte; remove it")
            options, positionals = self.split(arguments)
            separator = ["--"] if any(positional.startswith("-") for positional in positionals) else []
            # Defaults are added below: jsonargparse would check each of them again, which takes 20 times as long.
            parsed = super().parse_args([*options, *separator, *positionals], *rest, **settings | {"defaults": False})
        except InputError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RecursionError, ValueError) as error:  # `!!bool no`
            raise InputError(f"the value of an option cannot be read ({first_line(error)})") from error
        for dest, (name, interval) in self._intervals.items():
            if parsed.get(dest) is not None:
                check_interval(name, parsed[dest], interval)
        if settings.get("defaults", True):
            given, parsed = parsed, deepcopy(self._default_values)
            parsed.update(given)
        return parsed

    @cached_property
    def _default_values(self) -> Namespace:
        return self.get_defaults()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = " ".join(str(message).split())
        if required := re.search(r'Option "(\w+)" is required|arguments are required: (\w+)', message):
            action = next(a for a in self._actions if (required[1] or required[2]) in (a.dest, a.metavar))
            name = action.option_strings[0] if action.option_strings else action.metavar or action.dest.upper()
            message = f"{name} is missing: {action.help}"
        if rejected := re.match(r'Parser key "([\w.]+)": .*(?:Given value|Got value): (.*)', message):
            action = next(a for a in self._actions if a.dest == rejected[1])
            choices = re.search(r"Literal\[(.*?)\]", message)
            expected = f"expected {choices[1]}" if choices else " ".join(str(action.help).split())
            message = f"{action.option_strings[0]} does not take {rejected[2]}: {expected}"
        raise InputError(message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}…") from ex

    def split(self, args: Sequence[str]) -> tuple[list[str], list[str]]:
        """Returns the options (flags as `--name`, others as `--name=value`) and the positionals."""
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
            if f"{name}.name" in self._option_string_actions and not _is_yaml(dict, value):
                name = f"{name}.name"
            options.append(f"{name}={_as_yaml(value, getattr(action, '_typehint', None))}")
        return options, positionals

    def _option(self, typed: str) -> tuple[str, Action]:
        """Returns the full name of an option, or of a key in a dict option, and the option's action."""
        if typed in self._option_string_actions:
            return typed, self._option_string_actions[typed]
        by_name = {_normalized(name): (name, action) for name, action in self._option_string_actions.items()}
        if _normalized(typed) in by_name:
            return by_name[_normalized(typed)]
        option, dot, key = typed.rpartition(".")
        while dot:
            is_group = any(name.startswith(f"{_normalized(option)}.") for name in by_name)
            if _normalized(option) in by_name and not is_group:
                name, action = by_name[_normalized(option)]
                return name + typed[len(option) :], action
            option, dot, key = option.rpartition(".")
        names = [name for name in self._option_string_actions if name.startswith("--")]
        message = f"{self.prog} has no option {typed}{nearest(typed, names)}"
        raise InputError(message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}…")

    def _value(self, name: str, action: Action, remaining: list[str]) -> str:
        if getattr(action, "_typehint", None) is bool and (not remaining or remaining[0].lower() not in _TRUTHS):
            return "true"
        if not remaining or remaining[0].startswith("--"):
            raise InputError(f"{name} needs a value: {action.help}")
        return remaining.pop(0)


_TRUTHS = ("true", "false", "yes", "no")


def nearest(name: str, choices: Sequence[str]) -> str:
    """Returns "; did you mean …?" with the most similar choice, or "" if none is similar."""
    similar = difflib.get_close_matches(name, choices, n=1)
    return f"; did you mean {similar[0]}?" if similar else ""


def _normalized(name: str) -> str:
    return name.replace("-", "_")


def strings(value: str | list[str]) -> list[str]:
    """The type of an option that takes a list of strings: "a,b", or YAML if a string contains a comma."""
    if not isinstance(value, str):
        return value
    items = read_yaml(value) if _is_yaml(list, value) else value.split(",")
    return [str(item).strip() for item in items if str(item).strip()]


def _as_yaml(value: str, kind: Any) -> str:
    """Writes a comma-separated value as YAML if the type is a list or tuple."""
    item = _item_type(kind)
    if item is None or value == "null" or _is_yaml(list, value):
        return value
    return json.dumps(strings(value)) if item is str else f"[{', '.join(strings(value))}]"


def _is_yaml(kind: type, value: str) -> bool:
    """Whether a value is YAML of this type."""
    try:
        return isinstance(read_yaml(value), kind)
    except InputError:
        return False


def _item_type(kind: Any) -> Any:
    """The item type of a list or tuple type, also if that is annotated or optional; None for other types."""
    members = [member for member in get_args(kind) if member is not type(None)]
    if get_origin(kind) in (Union, UnionType, Annotated) and (len(members) == 1 or get_origin(kind) is Annotated):
        return _item_type(members[0])
    return members[0] if get_origin(kind) in (list, tuple) and members else None
