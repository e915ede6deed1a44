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
from regard.files import MAX_RECIPE_BYTES, read_regular
from regard.parser import Parser, nearest
from regard.strict_yaml import read_yaml
from regard.training.recipe import DataRecipe, Recipe

_MAX_VALUES = 1000  # in a list


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
    version: tuple[int, ...] = ()
    if path is not None:
        status = recipes.find(path).stat()
        version = status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
    return deepcopy(_cached_recipe(path, tuple(overrides), version))


@lru_cache(maxsize=1024)
def _cached_recipe(path: str | Path | None, overrides: tuple[str, ...], _version: tuple[int, ...]) -> Recipe:
    """A recipe, parsed again only if the version of its file has changed."""
    parser = _recipe_parser()
    return to_recipe(parser, parser.parse_args([*file_arguments(parser, path), *overrides]))


def to_recipe(parser: ArgumentParser, arguments: Namespace) -> Recipe:
    """Converts parsed arguments to a recipe, and checks it."""
    values = parser.instantiate(arguments)
    recipe = Recipe(**{name: values[name] for name in Recipe.__dataclass_fields__})
    recipe.check()
    return recipe


@cache
def _recipe_parser() -> Parser:
    parser = Parser(prog="recipe")
    add_recipe(parser)
    return parser


def add_data(parser: ArgumentParser, *, skip: Collection[str] = (), help: str | None = None) -> None:
    """Adds the data fields of a recipe to `parser`, as `--data.name` and the like, without those in `skip`.

    `help` is the help of `--data`, which is short for `--data.name`.
    """
    parser.add_class_arguments(DataRecipe, "data", skip=set(skip))
    _describe(parser, DataRecipe, "data.")
    if help is not None:
        parser._option_string_actions["--data"].help = help


def _describe(parser: ArgumentParser, group_class: type, prefix: str = "") -> None:
    """Adds the range in the type of each field to the help of its option, and a metavar to groups of fields."""
    options = {action.dest: action for action in parser._actions}
    for name, kind in get_type_hints(group_class, include_extras=True).items():
        if is_dataclass(kind):
            _describe(parser, cast(type, kind), f"{prefix}{name}.")
        elif get_origin(kind) is Annotated and (option := options.get(f"{prefix}{name}")):
            option.help = f"{option.help} In {kind.__metadata__[0]}."
    if group := options.get(prefix[:-1]):
        has_name = f"{prefix}name" in options
        group.metavar, group.help = "NAME", f"short for --{prefix}name" if has_name else SUPPRESS


def field_arguments(fields: Mapping[str, Any]) -> list[str]:
    """Command-line arguments that set fields given by dotted names."""
    return [f"--{name}={option_text(value)}" for name, value in fields.items()]


def option_text(value: Any) -> str:
    """The text of an option's value on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def to_data(arguments: Namespace, **fields: Any) -> DataRecipe:
    """Converts parsed arguments to the data recipe, with some fields replaced, and checks it."""
    recipe = DataRecipe(**vars(arguments.data), **fields)
    check_fields(recipe, "data.")
    return recipe


def file_arguments(parser: ArgumentParser, path: str | Path | None) -> list[str]:
    """Command-line arguments that set the fields in a recipe file."""
    if path is None:
        return []
    path = recipes.find(path)
    try:
        content = read_yaml(read_regular(path, MAX_RECIPE_BYTES).decode(errors="replace"))
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read ({error.strerror or error})") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if content is None:
        return []
    if not isinstance(content, dict):
        raise InputError(f"{path} is no recipe: it has a {type(content).__name__}, not fields with values")
    names = [action.dest for action in parser._actions if action.dest.partition(".")[0] in Recipe.__dataclass_fields__]
    try:
        return field_arguments(_flat(content, names, str(path)))
    except (TypeError, RecursionError) as error:
        raise InputError(f"{path} has content that no recipe has ({one_line(error)})") from error


def _flat(content: dict[Any, Any], names: Sequence[str], path: str, prefix: str = "") -> dict[str, Any]:
    """The fields in a recipe file by dotted names: groups of fields are flattened, values that are dicts are not."""
    fields: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        is_group = any(field.startswith(f"{name}.") for field in names)
        if not is_group and name not in names:
            raise InputError(f"{path}: a recipe has no field {name}{nearest(name, names)}")
        if is_group and not isinstance(value, dict):
            raise InputError(f"{path}: {name} is a group of fields, not {value!r:.100}")
        if isinstance(value, list) and len(value) > _MAX_VALUES:
            raise InputError(f"{path}: {name} has {len(value):,} values; expected at most {_MAX_VALUES:,}")
        fields |= _flat(value, names, path, f"{name}.") if is_group else {name: value}
    return fields
