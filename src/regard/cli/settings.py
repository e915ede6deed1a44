"""The options that say what runs of a table have other than its recipes: data, schedule, precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from regard import tables, training
from regard.errors import InputError

_WHERE = {"device", "threads", "save_minutes"}


def add_overrides(parser: ArgumentParser) -> None:
    """Adds `--shorten`, `--precision` and the fields of the data."""
    parser.add_argument(
        "--shorten", type=float, default=None, help="shorten every schedule to this share of its epochs, in (0, 1]"
    )
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16", "float16"], default=None, help="of the forward pass"
    )
    training.add_data(parser)


def given_overrides(
    parser: training.RecipeParser, options: Namespace, arguments: Sequence[str]
) -> tuple[tables.Overrides | None, dict[str, Any]]:
    """The overrides that are given, None if there are none; and the fields that say where runs take place.

    Args:
        parser: with `add_overrides`.
        options: parsed.
        arguments: as they were given: only what is said there counts, not defaults.
    """
    given = {argument.removeprefix("--").partition("=")[0] for argument in arguments if argument.startswith("--")}
    if "data" in given:
        raise InputError("a table takes the fields of the data one by one, as --data.name and --data.train_images")
    fields = training.plain(training.to_data(parser, options))
    # `--data.options.cue` says data.options
    named = {name for name in given if name.startswith("data.")}
    asked = {f"data.{field}": value for field, value in fields.items() if _said(f"data.{field}", named)}
    if options.precision is not None:
        asked["precision"] = options.precision
    where = {name: value for name, value in asked.items() if name in training.WHERE}
    where |= {name: options[name] for name in _WHERE if options.get(name) is not None}
    overrides = {name: value for name, value in asked.items() if name not in training.WHERE}
    if options.shorten is None and not overrides:
        return None, where
    return tables.Overrides(1.0 if options.shorten is None else options.shorten, overrides), where


def split_name(arguments: list[str]) -> tuple[str | None, list[str]]:
    """What stands before the options, and the rest."""
    if not arguments or arguments[0].startswith("-"):
        return None, arguments
    return arguments[0], arguments[1:]


def check_place(out: str | None) -> None:
    """Raises InputError if a file cannot be written where it is to be."""
    if out and not Path(out).absolute().parent.is_dir():
        raise InputError(f"there is no folder {str(Path(out).parent)!r} to write {out} to")


def _said(field: str, names: set[str]) -> bool:
    return any(name == field or name.startswith(f"{field}.") for name in names)
