"""What the images of a data set are called, without a Python string for each.

DataLoader workers share a block of bytes; of a million strings each would get a copy, bit by bit, as it reads them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


class Keys(Sequence[str]):
    """A list of strings that are made when they are asked for; equal to any other of the same strings."""

    @abstractmethod
    def _key(self, index: int) -> str:
        """The string at a place, 0 or more."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        places = range(len(self))[index]
        return self._key(places) if isinstance(places, int) else tuple(map(self._key, places))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __repr__(self) -> str:
        return repr(tuple(self))


class Strings(Keys):
    """Strings in one block of bytes."""

    def __init__(self, values: Iterable[str]) -> None:
        encoded = [value.encode("utf-8", "surrogateescape") for value in values]
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _key(self, index: int) -> str:
        start, end = self._ends[index : index + 2]
        return self._bytes[start:end].tobytes().decode("utf-8", "surrogateescape")


class Picked(Keys):
    """Those of others at some places."""

    def __init__(self, keys: Sequence[str], index: NDArray[np.int64]) -> None:
        self._keys, self._index = keys, index

    def __len__(self) -> int:
        return len(self._index)

    def _key(self, index: int) -> str:
        return self._keys[int(self._index[index])]
