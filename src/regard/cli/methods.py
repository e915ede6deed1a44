"""The CAM method that a person names on the command line."""

from __future__ import annotations

from importlib import import_module

from regard import maps
from regard.errors import InputError, first_line


def cam_method(name: str) -> str | maps.MapFunction:
    """The method of an option: a name, or the function of MODULE:FUNCTION.

    Only what is typed is imported: what a file names, such as a run's bias.json, is a name of `maps.names()`.

    Raises:
        InputError: there is no such module or function.
    """
    module, _, function = name.partition(":")
    if not function:
        return name
    try:
        method = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        known = ", ".join(maps.names())
        raise InputError(f"method {name!r} is not found: {first_line(error)}; known: {known}") from None
    if not callable(method):
        raise InputError(f"method {name!r} is a {type(method).__name__}; expected a function (model, images, classes)")
    return method
