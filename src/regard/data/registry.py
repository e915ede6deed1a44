"""The registry of data sets, with the functions that open them and their options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from regard.data.dataset import ImageDataset, Splits
from regard.data.in_memory import MEMORY_LIMIT
from regard.data.listing import show
from regard.errors import InputError, unknown

Function = TypeVar("Function", bound=Callable[..., Any])

# Arguments for which recipes and `load` have separate fields; they are not options of the data set.
FIELDS = ("unreadable", "download")


@dataclass
class Source:
    """A registered data set.

    Attributes:
        name: name of the data set.
        layout: the expected files, in one line.
        recognised: whether a path looks like this data set.
        one_file: whether the path may be a file; else it is a folder.
        open: opens a split, by path, split and options; split None is the held-out split.
        load: returns both splits, by path and options; None to open them with `open`.
        streamed: whether images are streamed; else they are in memory.
        resized: whether `load` reads images from files into memory and resizes them.
    """

    name: str
    layout: str = ""
    recognised: Callable[[Path], bool] = lambda path: False
    one_file: bool = False
    open: Callable[..., ImageDataset] | None = None
    load: Callable[..., Splits] | None = None
    streamed: bool = True
    resized: bool = False

    @property
    def takes_size(self) -> bool:
        """Whether images are resized, in memory or streamed."""
        return self.streamed or self.resized

    def all_options(self, options: Mapping[str, Any], *, opening: bool = False) -> dict[str, Any]:
        """The given options of `load`, or with `opening` of `open`, and the defaults of the others.

        Raises InputError for an unknown option or a value of the wrong type.
        """
        function = self.open if opening or self.load is None else self.load
        assert function is not None
        parameters = inspect.signature(function, eval_str=True).parameters
        defaults = {name: item.default for name, item in parameters.items() if name not in ("path", "split", *FIELDS)}
        types = {name: parameters[name].annotation for name in defaults}
        if self.resized and not opening:
            defaults["memory_limit"], types["memory_limit"] = MEMORY_LIMIT, int
        for name, value in options.items():
            if not defaults:
                raise InputError(f"data set {self.name!r} has no options (found {name!r}); leave it out")
            if name not in defaults:
                raise unknown(f"option of data set {self.name!r}", name, defaults)
            check_type(f"{name} of data set {self.name!r}", value, types[name])
        return {**defaults, **options}


SOURCES: dict[str, Source] = {}


def register(
    name: str,
    *,
    layout: str = "",
    recognised: Callable[[Path], bool] | None = None,
    one_file: bool = False,
    resized: bool = False,
) -> Callable[[Function], Function]:
    """Registers a data set by name, for `open_regions`, `load` and all commands.

    It decorates a subclass of `ImageDataset`, or a function that returns a data set. This is called with the path of
    the files (an existing `Path`), with `split` ("train", another name, or None for the held-out split), and with the
    options of the data set that are given, its other keyword arguments.

    Args:
        name: name of the data set.
        layout: the expected files, for messages: one line that begins with "expected".
        recognised: function that tells whether a path looks like this data set, for paths given without a name.
        one_file: whether the path may be a file; else it is a folder.
        resized: whether `load` reads the images into memory and resizes them; else they are streamed.
    """
    recognised = recognised or (lambda path: False)
    memory = {"streamed": False, "resized": True} if resized else {}
    return _register(name, "open", layout=layout, recognised=recognised, one_file=one_file, **memory)


def register_splits(name: str, *, streamed: bool = False, resized: bool = False) -> Callable[[Function], Function]:
    """Registers a function that returns both splits of a data set, for `load`.

    It is for data sets in memory, and for data sets that have different options for training than for `register`. The
    function is called with the arguments `path` (the given path or None), `unreadable` and `download`, if it has them,
    and with the options of the data set, its other keyword arguments.

    Args:
        name: name of the data set.
        streamed: whether images are streamed; else they are in memory.
        resized: whether the images that the function returns are then read into memory and resized.
    """
    return _register(name, "load", streamed=streamed, resized=resized)


def _register(name: str, attribute: Literal["open", "load"], **fields: Any) -> Callable[[Function], Function]:
    def decorator(function: Function) -> Function:
        source = SOURCES.setdefault(name, Source(name))
        for field, value in {attribute: function, **fields}.items():
            setattr(source, field, value)
        return function

    return decorator


def pick_split(split: str | None, splits: Sequence[str], folder: Path, preferred: Sequence[str]) -> str:
    """The given split, or without one the first preferred split that exists. Raises InputError without such a split."""
    if split is not None:
        if split not in splits:
            raise InputError(f"no split {split!r} in {show(folder)}; there are: {', '.join(splits) or 'none'}")
        return split
    if not splits:
        raise InputError(f"no splits in {show(folder)}; expected one of {', '.join(preferred)}")
    return next((name for name in preferred if name in splits), splits[0])


def check_type(name: str, value: Any, kind: Any) -> None:
    """Raises InputError if a value from YAML does not have the type of its option; without a type, all are valid."""
    if kind is inspect.Parameter.empty:
        return
    choices = [choice for part in (kind, *get_args(kind)) for choice in get_args(part) if isinstance(choice, str)]
    if choices and isinstance(value, str) and value not in choices:
        raise unknown(name, value, choices)
    if not _has_type(value, kind):
        raise InputError(f"option {name} is {value!r:.100}; expected {getattr(kind, '__name__', kind)}")


def _has_type(value: Any, kind: Any) -> bool:
    arguments = get_args(kind)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_has_type(item, arguments[0]) for item in value)
    if get_origin(kind) is Literal:
        return value in arguments
    if arguments:  # a union
        return any(_has_type(value, argument) for argument in arguments)
    return isinstance(value, float | int if kind is float else kind) and (kind is bool or not isinstance(value, bool))
