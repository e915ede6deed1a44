"""Parses recipes from YAML files and command-line options with jsonargparse."""

from __future__ import annotations

import json
from argparse import SUPPRESS
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, cast, get_origin, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from regard import recipes
from regard.errors import InputError, check_fields, one_line
from regard.files import read_regular
from regard.parser import Parser, nearest
from regard.strict_yaml import read_yaml
from regard.training.recipe import DataRecipe, Recipe

_LARGEST = 2**18  # bytes of a recipe file
_MOST_VALUES = 1000  # values in a list


def add_recipe(parser: ArgumentParser) -> None:
    """Adds every field of a recipe to `parser`, as `--optimizer.lr` and the like."""
    parser.add_class_arguments(Recipe, None)
    _describe(parser, Recipe)


def load_recipe(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Loads a recipe from a YAML file (None for the defaults) and applies overrides.

    Args:
        path: path of the file, or one of `regard.recipes.names()`.
        overrides: command-line options such as `["--optimizer.lr", "0.05"]`.

    Raises:
        InputError: the file does not exist or is not YAML, or a field is unknown or has an invalid value.
    """
    state: tuple[int, ...] = ()
    if path is not None:
        status = recipes.find(path).stat()
        state = status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
    return deepcopy(_loaded(path, tuple(overrides), state))


@lru_cache(maxsize=1024)
def _loaded(path: str | Path | None, overrides: tuple[str, ...], _state: tuple[int, ...]) -> Recipe:
    """A recipe; its file is parsed again only if it has changed."""
    parser = _recipe_parser()
    return to_recipe(parser, parser.parse_args([*file_arguments(parser, path), *overrides]))


def to_recipe(parser: ArgumentParser, arguments: Namespace) -> Recipe:
    """The recipe in parsed arguments, checked."""
    built = parser.instantiate(arguments)
    recipe = Recipe(**{name: built[name] for name in Recipe.__dataclass_fields__})
    recipe.check()
    return recipe


@cache
def _recipe_parser() -> Parser:
    parser = Parser(prog="recipe")
    add_recipe(parser)
    return parser


def add_data(parser: ArgumentParser, *, skip: Collection[str] = (), help: str | None = None) -> None:
    """Adds the data fields of a recipe to `parser`, as `--data.name` and the like.

    Args:
        parser: parser of a command.
        skip: names of fields to leave out.
        help: help of `--data`, which is short for `--data.name`.
    """
    parser.add_class_arguments(DataRecipe, "data", skip=set(skip))
    _describe(parser, DataRecipe, "data.")
    if help is not None:
        parser._option_string_actions["--data"].help = help


def _describe(parser: ArgumentParser, fields_of: type, prefix: str = "") -> None:
    """Adds the range of each field, which its type states, to the help of its option, and a metavar to groups."""
    options = {action.dest: action for action in parser._actions}
    for name, kind in get_type_hints(fields_of, include_extras=True).items():
        if is_dataclass(kind):
            _describe(parser, cast(type, kind), f"{prefix}{name}.")
        elif get_origin(kind) is Annotated and (option := options.get(f"{prefix}{name}")):
            option.help = f"{option.help} In {kind.__metadata__[0]}."
    if group := options.get(prefix[:-1]):
        named = f"{prefix}name" in options
        group.metavar, group.help = "NAME", f"short for --{prefix}name" if named else SUPPRESS


def field_arguments(fields: Mapping[str, Any]) -> list[str]:
    """Command-line arguments for fields given by dotted names."""
    return [f"--{name}={option_text(value)}" for name, value in fields.items()]


def option_text(value: Any) -> str:
    """The text of an option's value on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def to_data(arguments: Namespace, **fields: Any) -> DataRecipe:
    """The data recipe in parsed arguments with some fields replaced, checked."""
    recipe = DataRecipe(**vars(arguments.data), **fields)
    check_fields(recipe, "data.")
    return recipe


def file_arguments(parser: ArgumentParser, path: str | Path | None) -> list[str]:
    """Command-line arguments for the fields of a recipe file."""
    if path is None:
        return []
    path = recipes.find(path)
    try:
        content = read_yaml(read_regular(path, _LARGEST).decode(errors="replace"))
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read ({error.strerror or error})") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if content is None:
        return []
    if not isinstance(content, dict):
        raise InputError(f"{path} is no recipe: it has a {type(content).__name__}, not fields with values")
    known = [action.dest for action in parser._actions if action.dest.partition(".")[0] in Recipe.__dataclass_fields__]
    try:
        return field_arguments(dict(_flat(content, known, str(path))))
    except (TypeError, RecursionError) as error:
        raise InputError(f"{path} has content that no recipe has ({one_line(error)})") from error


def _flat(content: dict[Any, Any], known: Sequence[str], path: str, prefix: str = "") -> list[tuple[str, Any]]:
    """Fields by dotted names. Groups of fields are flattened; values that are dicts are not."""
    fields: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        group = any(other.startswith(f"{name}.") for other in known)
        if not group and name not in known:
            raise InputError(f"{path}: a recipe has no field {name}{nearest(name, known)}")
        if group and not isinstance(value, dict):
            raise InputError(f"{path}: {name} is a group of fields, not {value!r:.100}")
        if isinstance(value, list) and len(value) > _MOST_VALUES:
            raise InputError(f"{path}: {name} has {len(value):,} values; expected at most {_MOST_VALUES:,}")
        fields += _flat(value, known, path, f"{name}.") if group else [(name, value)]
    return fields
