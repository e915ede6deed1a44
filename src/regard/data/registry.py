"""The registry of data sets: how each is opened, and its options."""

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

# Arguments that are not options of the data set, because recipes and `load` have separate fields for them.
FIELDS = ("unreadable", "download")


@dataclass
class Source:
    """A data set by name.

    Attributes:
        name: name of the data set.
        layout: the expected files, in one line.
        recognised: function that tells whether a path looks like this data set.
        one_file: whether the path may be a file; else it is a folder.
        open: path, split and options -> the images of a split, "train", another, or None for the held-out one.
        load: path and options -> both splits; None: those that `open` gives.
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
        """The given and default options of `load`, or of `open`. Raises InputError: unknown, or of the wrong type."""
        function = self.open if opening or self.load is None else self.load
        assert function is not None
        parameters = inspect.signature(function, eval_str=True).parameters
        known = {name: option.default for name, option in parameters.items() if name not in ("path", "split", *FIELDS)}
        types = {name: parameters[name].annotation for name in known}
        if self.resized and not opening:
            known["memory_limit"], types["memory_limit"] = MEMORY_LIMIT, int
        for name, value in options.items():
            if not known:
                raise InputError(f"data set {self.name!r} has no options (found {name!r}); leave it out")
            if name not in known:
                raise unknown(f"option of data set {self.name!r}", name, known)
            check_type(f"{name} of data set {self.name!r}", value, types[name])
        return {**known, **options}


SOURCES: dict[str, Source] = {}


def register(
    name: str,
    *,
    layout: str = "",
    recognised: Callable[[Path], bool] | None = None,
    one_file: bool = False,
    resized: bool = False,
) -> Callable[[Function], Function]:
    """Register a data set by name, for `open_regions`, `load` and every command.

    This decorates a subclass of `ImageDataset`, or a function that returns a data set. It is called with the path of
    the files (an existing `Path`), with `split` ("train", another name, or None for the held-out split), and with
    those of its other keyword arguments that are given; these are the options of the data set.

    Args:
        name: name of the data set.
        layout: the expected files, for messages: one line that begins with "expected".
        recognised: function that tells whether a path looks like this data set, for paths given without a name.
        one_file: whether the path may be a file; else it is a folder.
        resized: whether `load` reads the images into memory and resizes them; else they are streamed.
    """
    recognised = recognised or (lambda path: False)
    memory = {"streamed": False, "resized": True} if resized else {}
    return _registers(name, "open", layout=layout, recognised=recognised, one_file=one_file, **memory)


def register_splits(name: str, *, streamed: bool = False, resized: bool = False) -> Callable[[Function], Function]:
    """Register a function that returns both splits of a data set, for `load`.

    It is for data sets that are in memory, or whose options for training differ from those of `register`. The function
    is called with `path` as given, or None, if it has this parameter; with those of `FIELDS` that it has; and with its
    other keyword arguments, which are the options.

    Args:
        name: name of the data set.
        streamed: whether images are streamed; else they are in memory.
        resized: whether the images that the function returns are then read into memory and resized.
    """
    return _registers(name, "load", streamed=streamed, resized=resized)


def _registers(name: str, part: Literal["open", "load"], **fields: Any) -> Callable[[Function], Function]:
    def registered(function: Function) -> Function:
        source = SOURCES.setdefault(name, Source(name))
        for field, value in {part: function, **fields}.items():
            setattr(source, field, value)
        return function

    return registered


def pick_split(split: str | None, splits: Sequence[str], folder: Path, preferred: Sequence[str]) -> str:
    """The given split if it exists; without one, the first preferred split that does. Raises InputError."""
    if split is not None:
        if split not in splits:
            raise InputError(f"no split {split!r} in {show(folder)}; there are: {', '.join(splits) or 'none'}")
        return split
    if not splits:
        raise InputError(f"no splits in {show(folder)}; expected one of {', '.join(preferred)}")
    return next((name for name in preferred if name in splits), splits[0])


def check_type(name: str, value: Any, kind: Any) -> None:
    """Raises InputError if a value from YAML does not have the type of its option; options without a type take any."""
    if kind is inspect.Parameter.empty:
        return
    choices = [word for part in (kind, *get_args(kind)) for word in get_args(part) if isinstance(word, str)]
    if choices and isinstance(value, str) and value not in choices:
        raise unknown(name, value, choices)
    if not _is_of(value, kind):
        raise InputError(f"option {name} is {value!r:.100}; expected {getattr(kind, '__name__', kind)}")


def _is_of(value: Any, kind: Any) -> bool:
    parts = get_args(kind)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_of(one, parts[0]) for one in value)
    if get_origin(kind) is Literal:
        return value in parts
    if parts:  # a union
        return any(_is_of(value, part) for part in parts)
    return isinstance(value, float | int if kind is float else kind) and (kind is bool or not isinstance(value, bool))
