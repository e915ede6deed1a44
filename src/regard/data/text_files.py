"""Reads text files that accompany images: lists, tables, class names and keys."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from regard.data.listing import quote_names, show
from regard.errors import InputError, first_line
from regard.files import MAX_BYTES, read_regular


def read_text(path: Path) -> str:
    """Reads a text file. Raises InputError if it cannot be read, is larger than 64 MiB, or is not text."""
    try:
        text = read_bytes(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 has a zero byte for every ASCII character
        raise InputError(f"{show(path)} is not text in UTF-8; save it as UTF-8, or get it again")
    return text


def read_bytes(path: Path, limit: int = 2**48) -> bytes:
    """Reads a file of at most `limit` bytes. Raises InputError if it cannot be read."""
    try:
        return read_regular(path, limit)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{show(path)} cannot be read ({reason}); get it again") from error


def read_json(path: Path) -> Any:
    """Reads a JSON file of any size. Raises InputError if it cannot be read or is not JSON."""
    content = read_bytes(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{show(path)} is not JSON ({first_line(error)}); get it again") from error


def read_lines(path: Path, expected: str) -> list[str]:
    """Reads the stripped lines of a text file, without empty lines and comments ('#').

    Raises InputError if the file cannot be read or has no lines; the message says that each should hold `expected`.
    """
    lines = [line for line in map(str.strip, read_text(path).splitlines()) if line and not line.startswith("#")]
    if not lines:
        raise InputError(f"{show(path)} has no lines; expected {expected} in each")
    return lines


def read_rows(path: Path, minimum: int, expected: str) -> list[list[str]]:
    """Reads lines as lists of words. Raises InputError as `read_lines`, and for a line with too few words."""
    rows = [line.split() for line in read_lines(path, expected)]
    for row in rows:
        if len(row) < minimum:
            raise InputError(f"{show(path)} has the line {' '.join(row)[:80]!r}; expected {expected}")
    return rows


def read_class_names(path: Path) -> tuple[str, ...]:
    """Reads class names, one per line. Raises InputError if the file cannot be read, is empty, or repeats a name."""
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise InputError(f"{show(path)} names no classes; expected one name per line")
    return unique(names, show(path))


def unique(names: Sequence[str], source: str) -> tuple[str, ...]:
    """The names as a tuple. Raises InputError if a name is repeated; the message begins with `source`."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(f"{source}: {quote_names(repeated)} named twice; give each a name of its own")
    return tuple(names)


def check_inside(path: object, source: Path) -> str:
    """Normalises a relative image path from the annotation file `source`. Raises InputError if it leaves the folder."""
    if isinstance(path, str) and path and "\0" not in path:
        pure = PurePosixPath(path.replace("\\", "/"))
        if not pure.is_absolute() and ".." not in pure.parts and pure.parts:
            return pure.as_posix()
    raise InputError(f"{show(source)} names an image {path!r}; expected a path within the folder of images")


class Strings(Sequence[str]):
    """A sequence of strings in one block of bytes, equal to any other sequence of the same strings.

    DataLoader workers share the block. A list of a million Python strings would be copied into every worker, because
    reading a string changes its reference count.
    """

    def __init__(self, values: Iterable[str]) -> None:
        encoded = [value.encode("utf-8", "surrogateescape") for value in values]
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        i = range(len(self))[index]
        start, end = self._ends[i : i + 2]
        return self._bytes[start:end].tobytes().decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __repr__(self) -> str:
        return repr(tuple(self))
